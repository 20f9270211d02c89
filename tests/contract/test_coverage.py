"""Coverage and audit: what passes each operation, and where completeness is lost."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, errors, methods

from .subjects import subject

NETS = ["torch-cnn", "torch-lstm", "tensorflow-cnn", "tensorflow-attention"]


@pytest.mark.parametrize(
    ("rule", "label"),
    [
        pytest.param(
            rule, label, marks=pytest.mark.slow if rule == "revealcancel" and label != "tensorflow-cnn" else []
        )
        for rule in ("rescale", "revealcancel")
        for label in NETS
    ],
)
def test_every_operation_has_an_exact_rule_and_no_node_is_incomplete(label: str, rule: str) -> None:
    found = subject(label, "float64")
    arrays = found.case.draw(2, "float64")
    explain = Explainer.compile(
        found.model, methods.DeepLift(rule=rule), inputs=found.case.given(arrays), **found.case.options()
    )
    assert not explain.coverage.unsupported
    assert not explain.coverage.approximate
    assert {row.exactness for row in explain.coverage} <= {"exact", ""}
    x = found.reference.points(arrays)
    target = found.target(found.reference.output(x, arrays))
    audit = explain.audit(
        *arrays, target=target, baseline=tuple(0.3 * part for part in x) if len(x) > 1 else 0.3 * x[0]
    )
    assert len(audit) > 3
    assert audit[0].largest <= 1e-9
    assert all(row.gaps.shape == (2,) for row in audit)
    assert [row.largest for row in audit] == sorted((row.largest for row in audit), reverse=True)


def with_sort() -> Any:
    import torch

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.sort(x * x, dim=1)[0])

    return Net().double()


X = np.random.default_rng(3).normal(size=(3, 4))


def test_an_operation_without_a_rule_is_named_and_the_coverage_still_prints() -> None:
    with pytest.raises(
        errors.UnsupportedOperation, match=r"aten\.sort.*deeplift_rescale|deeplift_rescale.*aten\.sort"
    ) as caught:
        Explainer.compile(with_sort(), "deeplift", inputs=X)
    coverage = caught.value.coverage
    assert [row.op for row in coverage.unsupported] == ["aten.sort.default"]
    assert "unsupported" in str(coverage)
    lazily = Explainer.compile(with_sort(), "deeplift")
    with pytest.raises(errors.UnsupportedOperation):
        lazily(X, target=0)
    assert str(lazily.coverage) == str(coverage)


def test_the_opt_out_is_recorded_and_the_audit_finds_it() -> None:
    explain = Explainer.compile(with_sort(), methods.DeepLift(unsupported="gradient"), inputs=X)
    found = explain.explanation(X, target=1, baseline=np.roll(X, 1, axis=1))
    assert [row.op for row in found.approximations] == ["aten.sort.default"]
    assert abs(found.completeness_gap).max() > 1e-3  # the gradient of a sort is not complete
    audit = explain.audit(X, target=1, baseline=np.roll(X, 1, axis=1))
    assert audit[0].op == "aten.sort.default"
    assert audit[0].largest == pytest.approx(abs(found.completeness_gap).max(), rel=1e-6)
    assert audit[1].largest < 1e-9


def test_tables_print_and_turn_into_dataframes() -> None:
    pandas = pytest.importorskip("pandas")
    rich = pytest.importorskip("rich.console")
    explain = Explainer.compile(with_sort(), methods.DeepLift(unsupported="gradient"), inputs=X)
    frame = explain.coverage.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["op", "role", "rule", "exactness", "count"]
    assert len(frame) == len(explain.coverage)
    assert list(explain.audit(X, target=0).to_dataframe()["node"])
    console = rich.Console(width=120, record=True, file=io.StringIO())
    console.print(explain.coverage)
    assert "approximate" in console.export_text()


def test_audit_needs_a_method_that_is_complete_everywhere() -> None:
    with pytest.raises(errors.UnsupportedOperation, match="deeplift"):
        Explainer.compile(subject("torch-mlp", "float64").model, "saliency", inputs=np.zeros((1, 5))).audit(
            np.zeros((1, 5)), target=0
        )


@pytest.mark.parametrize("label", ["torch-mlp", "tensorflow-sequential"])
@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift"])
def test_references_from_a_function_are_refused_where_one_baseline_is_meant(label: str, method: str) -> None:
    found = subject(label, "float32")
    arrays = found.case.draw(3, "float32")
    explain = Explainer.compile(found.model, method, inputs=found.case.given(arrays), baseline=References)
    with pytest.raises(errors.BaselineError, match="deeplift_shap"):
        explain(*arrays, target=0)
    assert found.case.explain(explain, arrays, target=0, baseline=0.0)[0].shape == arrays[0].shape
