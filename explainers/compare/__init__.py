"""Compare explanations of the same inputs: how far they agree, what each costs, and where they diverge."""

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
from .candidates import AnyCandidate, Candidate, Question, collect_candidates
from .comparison import Comparison
from .locating import Parting
from .measuring import Measurement, Outcome, outcome

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
    """Compute the same attributions with every candidate; compare the results pair by pair, and their cost.

    Parameters
    ----------
    candidates: Explainers, paths of saved explainers and :class:`Candidate` objects, in a list or in a dict by name.
    inputs, target, baseline, seed: as for calling an :class:`Explainer`; methods without a baseline ignore it.
    top: number of largest entries whose overlap is measured; by default a tenth of all entries.
    tolerance: largest relative difference at which two candidates still agree.
    seconds: how long to time each latency; 0 skips the timing.
    timeout: seconds that candidates in another process may take.

    Raises
    ------
    InputError: no candidates, no samples, or candidates that explain different inputs or outputs. NonFiniteError:
    attributions contain NaN. BackendMissing: a framework or another library is not installed. CandidateFailed: a
    candidate's process failed. Errors of compiling and calling name the candidate.
    """
    if tolerance < 0:
        raise InputError(f"tolerance must be ≥ 0; got {tolerance}")
    members = collect_candidates(candidates)
    question = Question.of(inputs, target, baseline, seed, seconds)
    outcomes = _outcomes([candidate for _, candidate in members], question, timeout)
    outcomes = _with_names(outcomes, [name for name, _ in members])
    candidate_by_name = {o.measurement.name: candidate for o, (_, candidate) in zip(outcomes, members, strict=True)}
    return Comparison(outcomes, pairs(outcomes, top), candidate_by_name, question, tolerance, timeout)


def _outcomes(candidates: Sequence[AnyCandidate], question: Question, timeout: float) -> list[Outcome]:
    """The candidates' outcomes, in order. Candidates in another process share one per backend, unless ``process``."""
    outcome_at: dict[int, Outcome] = {}
    groups: dict[str, list[int]] = {}
    for place, candidate in enumerate(candidates):
        if isinstance(candidate, Candidate) and candidate.in_other_process:
            suffix = f" {place}" if candidate.process else ""
            groups.setdefault(candidate.keras_backend + suffix, []).append(place)
            continue
        try:
            outcome_at[place] = outcome(candidate, question)
        except ExplainersError as error:
            raise _with_candidate_name(error, candidate) from error
    for places in groups.values():
        group = [candidates[place] for place in places]
        answers = processes.ask("measure", [c for c in group if isinstance(c, Candidate)], question, timeout)
        for place, answer in zip(places, answers, strict=True):
            outcome_at[place] = Outcome(**{**answer, "measurement": Measurement(**answer["measurement"])})
    return [outcome_at[place] for place in range(len(candidates))]


def _with_candidate_name(error: ExplainersError, candidate: AnyCandidate) -> ExplainersError:
    """The same error, with the candidate's name in front of its message."""
    if isinstance(candidate, Explainer):
        name = f"{candidate.method.name}, {candidate.backend}/{candidate.engine}"
    else:
        name = str(candidate)
    named_error = type(error)(f"candidate {name!r}: {error}")
    named_error.__dict__.update(error.__dict__)
    return named_error


def _with_names(outcomes: list[Outcome], names: Sequence[str | None]) -> list[Outcome]:
    """The outcomes with the given names; by default method, backend and engine, numbered where these repeat."""
    used_names = {name for name in names if name is not None}
    named_outcomes = []
    for one_outcome, given_name in zip(outcomes, names, strict=True):
        m = one_outcome.measurement
        name = base_name = given_name or f"{m.method} {m.backend}/{m.engine}"
        number = 2
        while given_name is None and name in used_names:
            name, number = f"{base_name} {number}", number + 1
        used_names.add(name)
        named_outcomes.append(dataclasses.replace(one_outcome, measurement=dataclasses.replace(m, name=name)))
    return named_outcomes


class _CallablePackage(ModuleType):
    """``explainers.compare`` is this package, which the import system sets there; a call runs :func:`compare`."""

    __call__ = staticmethod(compare)
    __signature__ = inspect.signature(compare)


_package = sys.modules[__name__]
_package.__class__ = _CallablePackage
_package.__doc__ = compare.__doc__
