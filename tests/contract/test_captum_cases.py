"""The expected values of Captum 0.9's own tests: see ``captum_cases`` for them, and ``LEFT_OUT`` for those not here."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from explainers import Explainer, methods
from explainers.errors import IncompleteWarning, InputError

from .captum_cases import CASES, REFUSED, Case
from .captum_models import MODELS

KEYS: dict[tuple[Any, ...], Case] = {}


def key(case: Case) -> tuple[Any, ...]:
    """What is compiled. Methods are equal whatever their groups are, so that the key has their text."""
    kinds = [(part.dtype.kind, part.shape[1:]) for part in arrays(case.inputs)]
    found = (case.model, repr(case.method), repr(case.wrt), case.output, case.dtype, repr(kinds))
    KEYS.setdefault(found, case)
    return found


def arrays(inputs: Any) -> tuple[np.ndarray, ...]:
    """Lists are numbers with a fraction; arrays keep their type."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    return tuple(part if isinstance(part, np.ndarray) else np.array(part, np.float32) for part in parts)


@cache
def compiled(found: tuple[Any, ...]) -> Explainer:
    case = KEYS[found]
    return Explainer.compile(
        MODELS[case.model]().eval(), case.method, inputs=arrays(case.inputs), wrt=case.wrt, output=case.output,
        dtype=case.dtype,
    )  # fmt: skip


def parametrized(case: Case) -> Any:
    marks = [pytest.mark.xfail(strict=True, reason=case.fails)] if case.fails else []
    return pytest.param(case, id=case.id, marks=marks)


@pytest.mark.parametrize("case", list(map(parametrized, CASES)))
def test_captum_case(case: Case) -> None:
    inputs = arrays(case.inputs)
    explain = compiled(key(case))
    with warnings.catch_warnings():
        if case.constant:
            warnings.simplefilter("ignore", IncompleteWarning)
        found = explain.explanation(*inputs, target=case.target, baseline=case.baseline)
    if case.expected is None:
        assert found.completeness_gap is not None
        np.testing.assert_allclose(found.completeness_gap, 0, atol=case.tolerance)
        return
    expected = case.expected
    if callable(expected):
        expected = expected(MODELS[case.model]().eval(), *map(torch.tensor, inputs)).detach()
    got, wanted = (a if isinstance(a, tuple) else (a,) for a in (found.attributions, expected))
    for ours, theirs in zip(got, (np.asarray(part, np.float64) for part in wanted), strict=True):
        assert ours.shape == theirs.shape
        stated = ~np.isnan(theirs)
        np.testing.assert_allclose(np.asarray(ours)[stated], theirs[stated], rtol=0, atol=case.tolerance)


@pytest.mark.parametrize("name", REFUSED)
def test_captum_refuses(name: str) -> None:
    model, window, stride, inputs = REFUSED[name]
    with pytest.raises(InputError):
        Explainer.compile(MODELS[model](), methods.Occlusion(window=window, stride=stride), inputs=arrays(inputs))
