"""One candidate's answer to the question, and what it costs."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import psutil

from .. import methods
from ..backend import find
from ..errors import InputError, NonFiniteError
from ..explainer.api import Explainer
from ..explainer.explanation import on_host
from ..graph.coverage import Table
from ..methods import Method
from ..spec import Numpy
from .candidates import Given, Question
from .model_names import model as named_model

WARM = 3  # calls before the clock starts: TorchScript specializes in its first runs
LEAST = 3  # calls that are measured, however long they take


@dataclass(frozen=True)
class Measured:
    """One candidate. Times are medians; what a peer does not tell is None.

    gap: largest |completeness gap| relative to |s(x) − s(b)|, None where the method promises none. compile_s:
    tracing and compiling everything that the question needed. one_ms, all_ms: latency of a call with one sample
    and with all. rows_per_s: evaluations of the model in calls with all samples. peak_mb: growth of the process's
    memory on the host from before compiling to its peak; the first of a process also loads parts of its framework.
    traces: programs traced.
    """

    name: str
    method: str
    backend: str
    engine: str
    gap: float | None
    compile_s: float | None
    one_ms: float | None
    all_ms: float | None
    rows_per_s: float | None
    peak_mb: float | None
    traces: int | None

    @property
    def title(self) -> tuple[str, str]:
        """The name, and method, backend and engine if the name does not tell them."""
        what = f"{self.method} {self.backend}/{self.engine}"
        return self.name, "" if what in self.name else what


class Candidates(Table[Measured]):
    """The candidates in the order given."""

    columns = tuple(Measured.__dataclass_fields__)
    numbers = columns[columns.index("gap") :]

    def numeric(self) -> list[tuple[str, ...]]:
        """The cells of ``numbers``."""
        return [cells[-len(self.numbers) :] for cells in self.cells()]


@dataclass(frozen=True)
class Outcome:
    """A candidate's attributions, one array (N, …) for each attributed value, with what was measured.

    family: the method's name. value: the method with all its parameters; "" for a peer. outputs: shape of one
    sample's output.
    """

    measured: Measured
    family: str
    value: str
    outputs: tuple[int, ...]
    attributions: tuple[Numpy, ...]

    def same_method(self, other: Outcome) -> bool:
        if self.value and other.value:
            return self.value == other.value
        return self.family == other.family


@dataclass(frozen=True)
class Answer:
    """attributions: (N, …) each. outputs: f(x), (N, …). gap: as in :class:`Measured`."""

    attributions: tuple[Numpy, ...]
    outputs: Numpy
    gap: float | None


class Runner(Protocol):
    """A compiled candidate."""

    method: str
    family: str
    value: str

    @property
    def backend(self) -> str: ...

    @property
    def engine(self) -> str: ...

    def answer(self, question: Question) -> Answer: ...

    def call(self, question: Question) -> Any:
        """The attributions as the candidate's framework gives them, for timing."""

    @property
    def rows(self) -> int | None:
        """Evaluations of the model so far."""

    @property
    def traces(self) -> int | None: ...

    @property
    def compile_s(self) -> float | None: ...


def briefly(method: Method) -> str:
    """The name, with the parameters that are not the default's."""
    known = methods.METHODS.get(method.name)
    fields = [] if known is None or type(known) is not type(method) else dataclasses.fields(method)
    told = [
        f"{f.name}={getattr(method, f.name)}"
        for f in fields
        if str(getattr(method, f.name)) != str(getattr(known, f.name))
    ]
    return method.name + (f"({', '.join(told)})" if told else "")


class Ours:
    """An explainer of this library."""

    def __init__(self, explain: Explainer) -> None:
        self.explain = explain
        self.method = briefly(explain.method)
        self.family = explain.method.name
        self.value = str(explain.method)

    @property
    def backend(self) -> str:
        return self.explain.backend

    @property
    def engine(self) -> str:
        return self.explain.engine

    @property
    def rows(self) -> int:
        return self.explain.stats.rows

    @property
    def traces(self) -> int:
        return self.explain.stats.traces

    @property
    def compile_s(self) -> float:
        return self.explain.stats.seconds_tracing + self.explain.stats.seconds_compiling

    def arguments(self, question: Question) -> dict[str, Any]:
        """Of a call: the baseline goes only to methods that have one."""
        has = self.explain.method.baseline != "none"
        return {"target": question.target, "baseline": question.baseline if has else None, "seed": question.seed}

    def answer(self, question: Question) -> Answer:
        found = self.explain.explanation(question.inputs, **self.arguments(question))
        parts = found.attributions
        parts = parts.values() if isinstance(parts, dict) else parts if isinstance(parts, tuple) else (parts,)
        gap = None if found.completeness_gap is None else found.largest_gap
        return Answer(tuple(map(on_host, parts)), found.outputs, gap)

    def call(self, question: Question) -> Any:
        return self.explain(question.inputs, **self.arguments(question))


def opened(candidate: Given) -> Any:
    """The candidate's model, loaded, so that its framework is imported."""
    if isinstance(candidate, Explainer):
        return None
    model = named_model(candidate.model) if isinstance(candidate.model, str) else candidate.model
    home = find(model, "torch" if candidate.peer else candidate.backend)
    plain = candidate.peer and callable(model) and not home.accepts(model)  # a function: peers say what they take
    return model if plain else home.opened(model)


def compiled(candidate: Given, model: Any, question: Question) -> Runner:
    """The candidate as something that answers; traced for the question's inputs."""
    if isinstance(candidate, Explainer):
        return Ours(candidate)
    if candidate.peer is not None:
        from . import peers

        return peers.compiled(candidate, model, question.plain())
    options = {"inputs": question.example, **candidate.options}
    method = methods.resolve(candidate.method)
    return Ours(Explainer.compile(model, method, backend=candidate.backend, engine=candidate.engine, **options))


def outcome(candidate: Given, question: Question, name: str = "") -> Outcome:
    """Compile, answer, and measure."""
    model = opened(candidate)
    with Memory() as memory:
        runner = compiled(candidate, model, question)
        answer = runner.answer(question)
        _check(answer, question)
        one = every = rate = None
        if question.seconds:
            first = question.some(slice(0, 1), answer.outputs.shape[1:])
            one = _median(runner, first, question.seconds)[0]
            every, rate = _median(runner, question, question.seconds)
    measured = Measured(
        name, runner.method, runner.backend, runner.engine, answer.gap, runner.compile_s, _ms(one), _ms(every), rate,
        memory.peak / 2**20, runner.traces,
    )  # fmt: skip
    return Outcome(measured, runner.family, runner.value, answer.outputs.shape[1:], answer.attributions)


def _check(answer: Answer, question: Question) -> None:
    for part in answer.attributions:
        if len(part) != len(question):
            raise InputError(f"it gives attributions of shape {part.shape} for {len(question)} samples")
        bad = np.flatnonzero(~np.isfinite(part).reshape(len(part), -1).all(1))
        if len(bad):
            raise NonFiniteError(f"its attributions have NaN or infinity, first in sample {bad[0]} of {len(part)}")


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _median(runner: Runner, question: Question, seconds: float) -> tuple[float, float | None]:
    """Median seconds of a call, and rows a second."""
    call: Callable[[Question], Any] = runner.call
    for _ in range(WARM):
        call(question)
    times: list[float] = []
    before = runner.rows
    while sum(times) < seconds or len(times) < LEAST:
        began = time.perf_counter()
        call(question)
        times.append(time.perf_counter() - began)
    rows = None if before is None or runner.rows is None else (runner.rows - before) / sum(times)
    return float(np.median(times)), rows


class Memory:
    """Growth of this process's resident memory to its peak while it is entered, in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, self._process.memory_info().rss - self._before)
            if self._done.wait(0.005):
                return
