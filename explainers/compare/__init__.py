"""Several explanations of one question side by side: how far they agree, what each costs, where they part."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from ..errors import ExplainersError, InputError
from ..explainer.api import Explainer
from . import processes
from .agreement import pairs
from .candidates import Candidate, Given, Question, gathered
from .comparison import Comparison
from .locating import Parting
from .measuring import Measured, Outcome, outcome

__all__ = ["Candidate", "Comparison", "Parting", "compare"]


def compare(
    candidates: Any,
    inputs: Any,
    *,
    target: Any = None,
    baseline: Any = None,
    seed: Any = 0,
    top: int | None = None,
    tolerance: float = 1e-4,
    seconds: float = 0.2,
    timeout: float = 600.0,
) -> Comparison:
    """Ask every candidate for the same attributions; compare them pair by pair, and what each costs.

    Parameters
    ----------
    candidates: Explainers, paths of explainers' files and :class:`Candidate`, in a list or in a dict by name.
    inputs, target, baseline, seed: as for calling an :class:`Explainer`; the baseline goes to the methods that
        have one.
    top: k of the overlap of the largest entries; by default a tenth of them.
    tolerance: largest relative difference of candidates that agree.
    seconds: to measure each latency for; 0 measures none.
    timeout: seconds that candidates in another process may take.

    Raises
    ------
    InputError: no candidates, no samples, or candidates that explain different inputs or outputs. NonFiniteError:
    attributions with NaN. BackendMissing: a framework or a peer is not installed. CandidateFailed. And what
    compiling and calling raise, with the candidate's name.
    """
    if tolerance < 0:
        raise InputError(f"tolerance must be ≥ 0; got {tolerance}")
    given = gathered(candidates)
    question = Question.of(inputs, target, baseline, seed, seconds)
    outcomes = _outcomes([candidate for _, candidate in given], question, timeout)
    outcomes = _named(outcomes, [name for name, _ in given])
    explained = {o.measured.name: candidate for o, (_, candidate) in zip(outcomes, given, strict=True)}
    return Comparison(outcomes, pairs(outcomes, top), explained, question, tolerance, timeout)


def _outcomes(candidates: Sequence[Given], question: Question, timeout: float) -> list[Outcome]:
    """In order. Candidates that run elsewhere share one process for each backend, unless they want their own."""
    found: dict[int, Outcome] = {}
    groups: dict[str, list[int]] = {}
    for place, candidate in enumerate(candidates):
        if isinstance(candidate, Candidate) and candidate.elsewhere:
            own = f" {place}" if candidate.process else ""
            groups.setdefault(candidate.keras_backend + own, []).append(place)
            continue
        try:
            found[place] = outcome(candidate, question)
        except ExplainersError as error:
            raise _told(error, candidate) from error
    for places in groups.values():
        some = [candidates[place] for place in places]
        answers = processes.ask("measure", [c for c in some if isinstance(c, Candidate)], question, timeout)
        for place, answer in zip(places, answers, strict=True):
            found[place] = Outcome(**{**answer, "measured": Measured(**answer["measured"])})
    return [found[place] for place in range(len(candidates))]


def _told(error: ExplainersError, candidate: Given) -> ExplainersError:
    """The same error with the candidate's name."""
    if isinstance(candidate, Explainer):
        name = f"{candidate.method.name}, {candidate.backend}/{candidate.engine}"
    else:
        name = str(candidate)
    told = type(error)(f"candidate {name!r}: {error}")
    told.__dict__.update(error.__dict__)
    return told


def _named(outcomes: list[Outcome], names: Sequence[str | None]) -> list[Outcome]:
    """With the names given, or method and engine, numbered where these are the same."""
    used = {name for name in names if name is not None}
    found = []
    for some, given in zip(outcomes, names, strict=True):
        m = some.measured
        name = own = given or f"{m.method} {m.backend}/{m.engine}"
        number = 2
        while given is None and name in used:
            name, number = f"{own} {number}", number + 1
        used.add(name)
        found.append(dataclasses.replace(some, measured=dataclasses.replace(m, name=name)))
    return found


class _CallablePackage(ModuleType):
    """``explainers.compare`` is this package, which the import system sets there; a call runs :func:`compare`."""

    __call__ = staticmethod(compare)
    __signature__ = inspect.signature(compare)


_package = sys.modules[__name__]
_package.__class__ = _CallablePackage
_package.__doc__ = compare.__doc__
