"""The expected values of Captum 0.9's own tests: see ``captum_cases`` for them, and ``LEFT_OUT`` for those not here."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from explainers import Explainer, methods
from explainers.errors import IncompleteWarning, InputError

from .captum_cases import CASES, REFUSED, Case
from .captum_models import MODELS


def arrays(inputs: Any) -> tuple[np.ndarray, ...]:
    """Lists are numbers with a fraction; arrays keep their type."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    return tuple(part if isinstance(part, np.ndarray) else np.array(part, np.float32) for part in parts)


@dataclass(frozen=True)
class Compiled:
    """What is compiled once: the case's model and method, but for how much is evaluated. Methods are equal whatever
    their groups are, so that two of these are the same where their texts are."""

    text: str
    case: Case = field(compare=False)
    method: Any = field(compare=False)

    @classmethod
    def of(cls, case: Case) -> Compiled:
        method = methods.resolve(case.method)
        method = replace(method, **{f.name: f.default for f in fields(method) if f.name in method.effort})
        kinds = [(part.dtype, part.shape[1:]) for part in arrays(case.inputs)]
        return cls(repr((case.model, method, case.wrt, case.output, case.dtype, kinds)), case, method)

    @cache
    def explainer(self) -> Explainer:
        case = self.case
        return Explainer.compile(
            MODELS[case.model]().eval(), self.method, inputs=arrays(case.inputs), wrt=case.wrt, output=case.output,
            dtype=case.dtype,
        )  # fmt: skip


def explainer(case: Case) -> Explainer:
    found, method = Compiled.of(case), methods.resolve(case.method)
    return found.explainer().replace(**{name: getattr(method, name) for name in method.effort})


def parametrized(case: Case) -> Any:
    marks = [pytest.mark.xfail(strict=True, reason=case.fails)] if case.fails else []
    return pytest.param(case, id=case.id, marks=marks)


@pytest.mark.parametrize("case", list(map(parametrized, CASES)))
def test_captum_case(case: Case) -> None:
    inputs = arrays(case.inputs)
    explain = explainer(case)
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
