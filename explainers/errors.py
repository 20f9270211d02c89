"""The exceptions.

::

    ExplainersError
    ├── InputError          (ValueError)       an input, its shape, dtype, number or name
    │   ├── NonFiniteError                     NaN or infinity, given or computed
    │   ├── TargetError                        a target that does not fit the output
    │   └── BaselineError                      a baseline that does not fit its input
    ├── UnknownNameError    (ValueError)       a method, engine, layer, output … that does not exist
    ├── TraceError          (RuntimeError)     the model cannot be turned into a graph
    ├── UnsupportedOperation (RuntimeError)    an operation without a rule, or not supported by an engine
    ├── ArtifactError       (ValueError)       a file that cannot be written, or is refused
    ├── NotConverged        (RuntimeError)     a tolerance was not reached
    ├── IncompleteError     (RuntimeError)     attributions that do not add up, where strict=True
    ├── PerturbationError   (RuntimeError)     a user's generator or its worker failed
    ├── CandidateFailed     (RuntimeError)     the process of a candidate of a comparison ended without an answer
    ├── ForkedProcess       (RuntimeError)     a call in a forked process of what was made before the fork
    ├── OutOfMemory         (MemoryError)      a call that does not fit the memory
    ├── QueueFull           (RuntimeError)     more rows wait than a scheduler takes
    ├── SourceError         (RuntimeError)     a source of samples failed
    ├── RunInProgress       (RuntimeError)     another process writes to the same results
    └── BackendMissing      (ImportError)      the framework is not installed

    IncompleteWarning       (RuntimeWarning)   attributions that do not add up
    ColumnsWarning          (UserWarning)      columns taken by position, because names are unknown

Each message says what was given, what was expected, and what to do.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

MOST_SHOWN = 100  # characters of a value in a message
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MOST_SHOWN
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = 12


def shown(value: object) -> str:
    """The value as Python writes it, in at most 100 characters: it may come from a client or a file."""
    text = _SHORT.repr(value)
    return text if len(text) <= MOST_SHOWN + 2 else f"{text[: MOST_SHOWN - 1]}…"  # quotes do not count


class ExplainersError(Exception):
    """Base of every error that this library raises on purpose."""


class InputError(ExplainersError, ValueError):
    """An input does not fit the signature."""


class NonFiniteError(InputError):
    """NaN or infinity in an input, or in the model's output or derivative."""


class TargetError(InputError):
    """A target does not fit the model's output."""


class BaselineError(InputError):
    """A baseline does not fit its input."""


class UnknownNameError(ExplainersError, ValueError):
    """An unknown name: of a method, a layer, an input, an output, an engine."""

    @classmethod
    def among(
        cls, kind: str, given: object, known: Iterable[str], advice: str = "", *, where: str = ""
    ) -> UnknownNameError:
        """An error that lists the names most similar to ``given``, or all names if there are few.

        ``where``: what ``given`` should be a name of, such as ``" of metric 'deletion'"``.
        """
        names = sorted(set(known))
        given_text = given[:MOST_SHOWN] if isinstance(given, str) else shown(given)
        near = difflib.get_close_matches(given_text, names, n=5, cutoff=0.4)
        if near and len(names) > 12:
            listed = f"Similar names: {', '.join(near)}."
        else:
            first = names[:40]
            listed = f"Known: {', '.join(first)}{' …' if len(names) > len(first) else ''}."
            if near:
                listed = f"Did you mean {near[0]!r}? {listed}"
        return cls(f"unknown {kind} {shown(given)}{where}. {listed}{' ' + advice if advice else ''}")


class TraceError(ExplainersError, RuntimeError):
    """The model cannot be traced into a graph, or fails when it is called.

    ``callable``: whether the reason does not keep the model from being called as it is.
    """

    callable: bool = True


class UnsupportedOperation(ExplainersError, RuntimeError):
    """A rule set has no rule for an operation of the model, or an engine cannot compile it.

    ``coverage``: every operation of the model with its rule; prints as a table. None if an engine raised it.
    """

    coverage: Any = None


class ArtifactError(ExplainersError, ValueError):
    """An explainer cannot be saved, or a file is damaged, too new, or not for this backend or device."""


class NotConverged(ExplainersError, RuntimeError):
    """The tolerance asked for was not reached within the allowed number of steps."""


class IncompleteError(ExplainersError, RuntimeError):
    """Attributions of a method that promises completeness do not add up to the change of the output."""


class IncompleteWarning(RuntimeWarning):
    """Attributions of a method that promises completeness do not add up to the change of the output."""


class ColumnsWarning(UserWarning):
    """Columns of a table have names that the explainer does not know: they are taken by position."""


class PerturbationError(ExplainersError, RuntimeError):
    """A user's generator raised, took too long, or lost its worker; the message names the sample."""


class CandidateFailed(ExplainersError, RuntimeError):
    """A candidate's process in a comparison ended without a result; the message has the last lines of its output."""


class ForkedProcess(ExplainersError, RuntimeError):
    """A call in a forked process of an explainer or a scheduler whose threads exist in the parent only."""

    @classmethod
    def of(cls, thing: str) -> ForkedProcess:
        return cls(
            f"{thing} was made before this process was forked, and would wait for threads that a fork does not copy. "
            "Start processes by the method 'spawn' of multiprocessing, or make it in the child"
        )


class OutOfMemory(ExplainersError, MemoryError):
    """A call does not fit the memory; the next one may."""


class QueueFull(ExplainersError, RuntimeError):
    """The scheduler's queue is full. Try again later."""


class SourceError(ExplainersError, RuntimeError):
    """A source of samples failed while a block was read; the message names the block."""


class RunInProgress(ExplainersError, RuntimeError):
    """Another process writes to the same results; the message names it."""


class BackendMissing(ExplainersError, ImportError):
    """A required framework is not installed."""
