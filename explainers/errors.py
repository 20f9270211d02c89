"""The exceptions.

::

    ExplainersError
    ├── InputError          (ValueError)       an input, its shape, dtype, number or name
    │   ├── NonFiniteError                     NaN or infinity, given or computed
    │   ├── TargetError                        a target that the output has no place for
    │   └── BaselineError                      a baseline that does not fit its input
    ├── UnknownNameError    (ValueError)       a method, engine, layer, output … that is not there
    ├── TraceError          (RuntimeError)     the model cannot be turned into a graph
    ├── UnsupportedOperation (RuntimeError)    an operation without a rule, or that an engine lacks
    ├── ArtifactError       (ValueError)       a file that cannot be written, or is refused
    ├── NotConverged        (RuntimeError)     a tolerance was not reached
    ├── IncompleteError     (RuntimeError)     attributions that do not add up, where strict=True
    ├── PerturbationError   (RuntimeError)     a user's generator or its worker failed
    ├── CandidateFailed     (RuntimeError)     the process of a candidate of a comparison ended without an answer
    ├── QueueFull           (RuntimeError)     more rows wait than a scheduler takes
    └── BackendMissing      (ImportError)      the framework is not installed

    IncompleteWarning       (RuntimeWarning)   attributions that do not add up
    ColumnsWarning          (UserWarning)      columns taken by place, for want of names

Each message says what was given, what was expected, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ExplainersError(Exception):
    """Base of every error that this library raises on purpose."""


class InputError(ExplainersError, ValueError):
    """An input does not fit the signature."""


class NonFiniteError(InputError):
    """NaN or infinity in an input, or in what the model made of it."""


class TargetError(InputError):
    """A target does not fit the model's output."""


class BaselineError(InputError):
    """A baseline does not fit the input that it stands for."""


class UnknownNameError(ExplainersError, ValueError):
    """An unknown name: of a method, a layer, an input, an output, an engine."""

    @classmethod
    def among(cls, kind: str, given: object, known: Iterable[str], advice: str = "") -> UnknownNameError:
        """An error that lists the names nearest to ``given``, or all of a few."""
        names = sorted(known)
        near = difflib.get_close_matches(str(given), names, n=5, cutoff=0.4)
        if near and len(names) > 12:
            listed = f"Near to it: {', '.join(near)}."
        else:
            shown = names[:40]
            listed = f"Known: {', '.join(shown)}{' …' if len(names) > len(shown) else ''}."
            if near:
                listed = f"Did you mean {near[0]!r}? {listed}"
        return cls(f"unknown {kind} {given!r}. {listed}{' ' + advice if advice else ''}")


class TraceError(ExplainersError, RuntimeError):
    """The model cannot be traced into a graph."""


class UnsupportedOperation(ExplainersError, RuntimeError):
    """A rule set has no rule for an operation of the model, or an engine cannot compile it.

    ``coverage``: every operation of the model with the rule that passes it; prints as a table. None of an engine.
    """

    coverage: Any = None


class ArtifactError(ExplainersError, ValueError):
    """An explainer that has no file form, or a file that is damaged, too new, or made for something else."""


class NotConverged(ExplainersError, RuntimeError):
    """The tolerance asked for was not reached within the allowed number of steps."""


class IncompleteError(ExplainersError, RuntimeError):
    """Attributions of a method that promises completeness do not add up to the change of the output."""


class IncompleteWarning(RuntimeWarning):
    """Attributions of a method that promises completeness do not add up to the change of the output."""


class ColumnsWarning(UserWarning):
    """Columns of a table have names that the explainer does not know: they are taken by their places."""


class PerturbationError(ExplainersError, RuntimeError):
    """A user's generator raised, took too long, or lost its worker; the message names the sample."""


class CandidateFailed(ExplainersError, RuntimeError):
    """A candidate of a comparison, in a process of its own, ended without an answer; the message has its last lines."""


class QueueFull(ExplainersError, RuntimeError):
    """More rows wait than the scheduler takes. Try again later."""


class BackendMissing(ExplainersError, ImportError):
    """A framework is needed that is not installed."""
