"""The expected values of Captum 0.9's own tests: see ``captum_cases`` for them, and ``LEFT_OUT`` for those not here."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from explainers import Explainer, methods
from explainers.errors import ExplainersError

from .captum_cases import CASES, Case
from .captum_models import MODELS

KEYS: dict[tuple[Any, ...], Case] = {}


def key(case: Case) -> tuple[Any, ...]:
    """What is compiled. Methods are equal whatever their groups are, so that the key has their text."""
    found = (case.model, repr(case.method), repr(case.wrt), case.output, repr(shapes(case.inputs)))
    KEYS.setdefault(found, case)
    return found


def shapes(inputs: Any) -> Any:
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    return [(array(part).dtype.kind, array(part).shape[1:]) for part in parts]


def array(given: Any) -> np.ndarray:
    found = np.asarray(given)
    return found if isinstance(given, np.ndarray) and found.dtype.kind in "iub" else found.astype(np.float32)


def arrays(inputs: Any) -> Any:
    return tuple(map(array, inputs)) if isinstance(inputs, tuple) else array(inputs)


@cache
def compiled(found: tuple[Any, ...]) -> Explainer:
    case = KEYS[found]
    model, inputs = MODELS[case.model]().eval(), arrays(case.inputs)
    return Explainer.compile(model, case.method, inputs=inputs, wrt=case.wrt, output=case.output)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_captum_case(case: Case) -> None:
    explain = compiled(key(case))
    inputs = arrays(case.inputs)
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    found = explain.explanation(*inputs, target=case.target, baseline=case.baseline)
    if case.expected is None:
        assert found.completeness_gap is not None
        np.testing.assert_allclose(found.completeness_gap, 0, atol=case.tolerance)
        return
    got, expected = (a if isinstance(a, tuple) else (a,) for a in (found.attributions, case.expected))
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        theirs = np.asarray(theirs, np.float64)
        assert ours.shape == theirs.shape
        checked = ~np.isnan(theirs)
        np.testing.assert_allclose(np.asarray(ours)[checked], theirs[checked], rtol=0, atol=case.tolerance)
