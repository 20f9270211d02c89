"""DeepLIFT is complete behind every operation of torch: all of one family in one net."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from explainers import Explainer, methods

QUICK = {
    "rescale": ["activations", "softmax", "norms", "pools"],
    "revealcancel": [],
}
FAMILIES = [
    *QUICK["rescale"], "functions", "convolutions", "extremes", "shapes", "products", "recurrent", "attention",
]  # fmt: skip
GRID = [
    pytest.param(
        family, rule, dtype,
        marks=[] if dtype == "float64" and family in QUICK[rule] else [pytest.mark.slow],
    )
    for rule in QUICK
    for family in FAMILIES
    for dtype in ("float64", "float32")
]  # fmt: skip
GAP = {"float64": 1e-9, "float32": 1e-4}


def check(names: list[tuple[str, str]], rule: str, dtype: str) -> None:
    """Different references for each sample: every node of the walk is complete, and the whole is."""
    from . import nets_deeplift as nets

    model: Any = nets.net([nets.OPERATIONS[family][name] for family, name in names], dtype)
    x, r = np.random.default_rng(1).normal(size=(2, 4, nets.FEATURES)).astype(dtype)
    explain = Explainer.compile(model, methods.DeepLift(rule=rule), inputs=x)
    found = explain.explanation(x, target=[0, 1, 2, 1], baseline=r)
    assert found.approximations == ()
    assert abs(found.outputs - found.baseline_outputs).max() > 1e-2
    assert found.largest_gap <= GAP[dtype], explain.audit(x, target=1, baseline=r)
    alone = explain(x[2:3], target=2, baseline=r[2:3])
    np.testing.assert_allclose(found.attributions[2:3], alone, atol=GAP[dtype] * abs(alone).max())


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("family", "rule", "dtype"), GRID)
def test_family_is_complete(family: str, rule: str, dtype: str) -> None:
    from .nets_deeplift import OPERATIONS

    check([(family, name) for name in OPERATIONS[family]], rule, dtype)


def test_every_family_is_in_the_grid() -> None:
    from .nets_deeplift import OPERATIONS

    assert sorted(OPERATIONS) == sorted(FAMILIES)
