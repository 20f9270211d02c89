"""Methods as values; quadratures."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import explainers
from explainers import methods
from explainers.errors import InputError, UnknownNameError
from explainers.methods.gradient import QUADRATURES, quadrature_rule
from explainers.methods.groups import feature_maps, spread


def test_public_names() -> None:
    assert explainers.__all__ == [
        "Candidate", "Comparison", "Ensemble", "Explainer", "Explanation", "Influence", "References", "Scheduler",
        "Signature", "TensorSpec", "cluster", "compare", "errors", "evaluate", "genomics", "influence", "losses",
        "methods", "metrics", "text",
    ]  # fmt: skip
    kinds = {type(method).__name__ for method in methods.METHODS.values()}
    assert set(methods.__all__) == kinds | {"LRP", "Method", "Perturbation", "resolve"}
    for name in kinds:
        module = sys.modules[getattr(methods, name).__module__]
        assert name in module.__all__


@pytest.mark.parametrize("quadrature", QUADRATURES)
def test_quadratures_integrate(quadrature: str) -> None:
    nodes, weights = quadrature_rule(quadrature, 20)
    assert weights.sum() == pytest.approx(1)
    assert (weights * nodes).sum() == pytest.approx(0.5, abs=0.03)
    degree = 39 if quadrature == "gauss_legendre" else 0
    assert (weights * nodes**degree).sum() == pytest.approx(1 / (degree + 1), abs=1e-12)


def test_right_is_deepexplains() -> None:
    nodes, _ = quadrature_rule("right", 4)
    assert nodes.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert methods.resolve("intgrad") == methods.IntegratedGradients(100, "right")
    assert methods.resolve("grad*input") == methods.InputXGradient()


def test_an_unknown_name_lists_the_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown method 'integrated_gradient'.*integrated_gradients"):
        methods.resolve("integrated_gradient")


@pytest.mark.parametrize(
    "make",
    [
        lambda: methods.IntegratedGradients(0), lambda: methods.IntegratedGradients(quadrature="simpson"),
        lambda: methods.IntegratedGradients(tolerance=0.0), lambda: methods.IntegratedGradients(1, "trapezoid"),
        lambda: methods.SmoothGrad(noise=-1.0), lambda: methods.SmoothGrad(kind="median"),
        lambda: methods.GradientShap(True),
    ],
)  # fmt: skip
def test_bad_parameters(make: object) -> None:
    with pytest.raises(InputError, match=r"must be|above 0"):
        make()  # type: ignore[operator]


def test_groups_may_have_gaps_and_span_inputs() -> None:
    first, second = feature_maps((np.array([3, 3, 9]), np.array([9, -1])), [(3,), (2,)])
    assert first.tolist() == [1, 1, 2]
    assert second.tolist() == [2, 0]
    one, other = spread(np.array([[6.0, 1.0, 3.0]]), [first, second])
    assert one.tolist() == [[1, 1, 3]]
    assert other.tolist() == [[3, 6]]
