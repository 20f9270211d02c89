"""Plain callables: the arrays of the caller's kind go in, and what comes out wrong is told as what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, methods
from explainers.errors import ExplainersError, InputError, TargetError, TraceError

W = np.random.default_rng(0).normal(size=(5, 3))
X = np.random.default_rng(1).normal(size=(3, 5))


def model(x: Any) -> Any:
    return np.tanh(x @ W)


BAD: dict[str, tuple[Callable[[Any], Any], type[ExplainersError], str]] = {
    "a tuple with None": (lambda x: (model(x), None), TraceError, r"a tuple of 2 \(ndarray\[1, 3\], NoneType"),
    "a list of outputs": (lambda x: [model(x)[:, :2], model(x)[:, 1:]], TraceError, "a list of 2"),
    "a dict": (lambda x: {"a": model(x)}, TraceError, "dict of dtype object"),
    "words": (lambda x: np.array(["a"] * len(x)), TraceError, "of dtype <U1; numbers are needed"),
    "squeezed": (lambda x: model(x)[:, :1].squeeze(), TraceError, r"squeeze\(\) drops the batch axis"),
    "a mean": (lambda x: model(x).mean(), TraceError, "must return one row for each sample"),
    "one row too many": (lambda x: np.ones((len(x) + 1, 3)), TraceError, r"shape \(2, 3\) for 1 samples"),
    "ragged": (lambda x: [[1.0, 2.0], [1.0]], TraceError, "a list that is not an array"),
    "raises": (lambda x: 1 / 0, TraceError, "the model raised ZeroDivisionError for one sample"),
    "None": (lambda x: None, TraceError, "NoneType of dtype object"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_callable_returns(name: str) -> None:
    function, kind, words = BAD[name]
    with pytest.raises(kind, match=words):
        Explainer.compile(function, "exact_shapley")(X, target=0)


def test_what_a_callable_is_given() -> None:
    explain = Explainer.compile(model, "exact_shapley")
    with pytest.raises(TraceError, match=r"raised ValueError.* One sample needs a batch axis: x\[None\]"):
        explain(X[0], target=0)
    with pytest.raises(InputError, match=r"dtype float128: convert it with .astype\('float64'\)"):
        explain(X.astype("longdouble"), target=0)
    with pytest.raises(InputError, match="feature id for each element"):
        Explainer.compile(model, methods.KernelShap(groups=[[0], [1, 2], [3, 4]]))(X, target=0)
    with pytest.raises(TargetError, match="one number for each of 3 samples: leave target out"):
        Explainer.compile(lambda x: model(x)[:, 0], "exact_shapley")(X, target=0)


def test_wide_and_whole_results_are_taken() -> None:
    exact = Explainer.compile(lambda x: x @ W[:, 0], "exact_shapley")(X)
    for kind in ("longdouble", "float64"):
        np.testing.assert_allclose(Explainer.compile(lambda x: (x @ W[:, 0]).astype(kind), "exact_shapley")(X), exact)  # noqa: B023
    listed = Explainer.compile(lambda x: [row.tolist() for row in model(x)], "exact_shapley")(X, target=0)
    np.testing.assert_allclose(listed, Explainer.compile(model, "exact_shapley")(X, target=0))


@pytest.mark.parametrize("frame", ["torch", "tensorflow"])
def test_a_callable_gets_the_callers_kind_of_array(frame: str) -> None:
    """Captum's users write functions of torch tensors, and forward-only methods take them as they are."""
    framework = pytest.importorskip(frame)
    make = framework.tensor if frame == "torch" else framework.constant
    weights, given = make(W), make(X)
    seen: list[type] = []

    def of_tensors(x: Any) -> Any:
        seen.append(type(x))
        return framework.tanh(framework.matmul(x, weights))

    found = Explainer.compile(of_tensors, "exact_shapley")(given, target=0)
    np.testing.assert_allclose(np.asarray(found), Explainer.compile(model, "exact_shapley")(X, target=0), rtol=1e-6)
    assert isinstance(found, type(given))
    assert set(seen) == {type(given)}


def test_a_numpy_function_of_tensors_is_given_numpy() -> None:
    torch = pytest.importorskip("torch")

    def of_numpy(x: Any) -> Any:
        assert isinstance(x, np.ndarray)
        return model(x)

    found = Explainer.compile(of_numpy, "exact_shapley")(torch.tensor(X), target=0)
    np.testing.assert_allclose(found.numpy(), Explainer.compile(model, "exact_shapley")(X, target=0))
    with pytest.raises(TraceError, match="the model raised KeyError for one sample \\(arrays of their kind or numpy's"):
        Explainer.compile(lambda x: {}["a"], "exact_shapley")(torch.tensor(X), target=0)


def test_flags_of_callables() -> None:
    def scaled(x: Any, factor: int = 1, twice: bool = False) -> Any:
        return model(x) * factor * (2 if twice else 1)

    exact = Explainer.compile(model, "exact_shapley")(X, target=0)
    explain = Explainer.compile(scaled, "exact_shapley")
    np.testing.assert_allclose(explain(X, 3, twice=True, target=0), 6 * exact)
    with pytest.raises(InputError, match="twice=False, but this explainer was compiled for twice=True"):
        explain(X, 3, twice=False, target=0)
