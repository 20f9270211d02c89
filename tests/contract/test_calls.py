"""Models that are called as they are (engine "eager", methods that need only outputs): the same as those traced."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, methods
from explainers.errors import ArtifactError, UnknownNameError

from .state import fingerprint
from .subjects import CASE_NAMES, FORWARD_ONLY, METHODS, SMALLEST, Subject, assert_close, case, subject
from .test_invariants import call, check_batch_invariance, check_threads, held, random_call

BACKENDS = ("torch", "tensorflow")
OTHERS: dict[str, Any] = {
    "exact_shapley": methods.ExactShapley(),
    "kernel_shap": methods.KernelShap(samples=24),
    "lime": methods.Lime(samples=24),
    "rise": methods.Rise(samples=12),
    "feature_permutation": methods.FeaturePermutation(),
}
LABELS = [f"{backend}-{name}" for backend in BACKENDS for name in CASE_NAMES[backend]]
QUICK = ("shapley_sampling-antithetic", "occlusion-mean")
GRID = [
    pytest.param(label, method, marks=[] if label in SMALLEST.values() or method in QUICK else [pytest.mark.slow])
    for label in LABELS
    for method in FORWARD_ONLY
]
SMALL = [(SMALLEST[backend], method) for backend in BACKENDS for method in FORWARD_ONLY]


@functools.cache
def compiled(label: str, method: str, dtype: str = "float64", engine: str = "eager") -> tuple[Subject, Explainer]:
    found = subject(label, dtype)
    return found, found.compile(method, engine=engine)


@pytest.mark.parametrize(("label", "method"), GRID)
def test_equals_the_traced_form(label: str, method: str) -> None:
    if case(label).wrt is not None:
        with pytest.raises(UnknownNameError, match="called as it is, so that its layers cannot be seen"):
            subject(label, "float64").compile(method, engine="eager")
        return
    found, explain = compiled(label, method)
    _, traced = compiled(label, method, engine="auto")
    assert traced.engine != "eager"
    assert explain.graph.called
    assert not traced.graph.called
    for seed in (3, 4):
        arrays = found.case.draw(3, "float64", seed)
        target = found.target(np.zeros((3, *explain.output.sample_shape)))
        got, want = (call(found, each, method, arrays, seed, target=target) for each in (explain, traced))
        assert_close(got, want, 1e-9)


@pytest.mark.parametrize("method", OTHERS)
@pytest.mark.parametrize("label", [SMALLEST[backend] for backend in BACKENDS])
def test_other_methods_too(label: str, method: str) -> None:
    found = subject(label, "float64")
    (x,) = found.case.draw(5, "float64")
    results = [
        Explainer.compile(found.model, OTHERS[method], inputs=x, engine=engine)(x, target=1, seed=4)
        for engine in ("auto", "eager")
    ]
    assert abs(results[0]).max() > 0
    assert_close([results[1]], [results[0]], 1e-9)


@pytest.mark.parametrize(("label", "method"), SMALL)
def test_batch_invariance(label: str, method: str) -> None:
    found, explain = compiled(label, method)
    check_batch_invariance(found, explain, method)


@pytest.mark.parametrize(("label", "method"), SMALL)
def test_traced_once_and_no_growth(label: str, method: str) -> None:
    found, explain = subject(label, "float32"), subject(label, "float32").compile(method, engine="eager")
    before_model = fingerprint(found.case.backend, found.model)
    generator = np.random.default_rng(2)
    for _ in range(3):
        random_call(found, explain, method, generator, top=9)
    explain.predict(*found.case.draw(2, "float32"))
    before = sizes_of(explain)
    for _ in range(60):
        random_call(found, explain, method, generator, top=9)
    assert sizes_of(explain) == before
    assert explain.stats.traces <= 2
    assert fingerprint(found.case.backend, found.model) == before_model


def sizes_of(explain: Explainer) -> dict[str, int]:
    """What must not grow in an explainer without compiled operations."""
    return {"held": held(explain), "traces": explain.stats.traces, "shapes": len(explain.stats.compiled_shapes)}


@pytest.mark.parametrize(("label", "method"), [p for p in SMALL if p[1] in QUICK])
def test_threads(label: str, method: str) -> None:
    found = subject(label, "float32")
    check_threads(found, found.compile(method, engine="eager"), method, each=20)


@pytest.mark.parametrize("backend", BACKENDS)
def test_there_is_no_file(backend: str) -> None:
    _, explain = compiled(SMALLEST[backend], "occlusion-mean")
    with pytest.raises(ArtifactError, match="Compile it with engine='auto' to save it"):
        explain.save("never.explainer")


@pytest.mark.parametrize("backend", BACKENDS)
def test_methods_with_rules_are_traced_on_every_engine(backend: str) -> None:
    for name in ("gradient", "deeplift-rescale"):
        explain = subject(SMALLEST[backend], "float64").compile(name, engine="eager")
        assert not explain.graph.called
        assert METHODS[name].rule_set is not None
