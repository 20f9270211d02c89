"""One candidate's attributions, and what computing them costs."""

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
from ..spec import Numpy
from .candidates import AnyCandidate, Question, short_name
from .model_names import model as named_model

WARM = 3  # calls before the clock starts: TorchScript specializes in its first runs
LEAST = 3  # calls that are measured, however long they take


CAPTION = (
    "gap: largest relative completeness gap. one, all: latency of a call with one sample and with all. rows: "
    "evaluations of the model in calls with all. peak: growth of the process's memory."
)


def _headed(words: str, unit: str = "") -> Any:
    """A field with the heading of its column: what is measured, and its unit, "" for none."""
    return dataclasses.field(metadata={"heading": (words, unit)})


@dataclass(frozen=True)
class Measurement:
    """What one candidate costs. Times are medians; a number that another library does not report is None.

    gap: largest |completeness gap| relative to |s(x) − s(b)|, None for methods without completeness. compile_s:
    seconds of all tracing and compiling. one_ms, all_ms: latency of a call with one sample and with all samples.
    rows_per_s: evaluations of the model per second in calls with all samples. peak_mb: growth of the process's host
    memory from before compiling to its peak; for the first candidate of a process this includes parts of its
    framework. traces: number of traced programs.
    """

    name: str
    method: str
    backend: str
    engine: str
    gap: float | None = _headed("gap")
    compile_s: float | None = _headed("compile", "s")
    one_ms: float | None = _headed("one", "ms")
    all_ms: float | None = _headed("all", "ms")
    rows_per_s: float | None = _headed("rows", "1/s")
    peak_mb: float | None = _headed("peak", "MB")
    traces: int | None = _headed("traces")

    @property
    def title(self) -> tuple[str, str]:
        """The name, and method, backend and engine unless the name contains them."""
        what = f"{self.method} {self.backend}/{self.engine}"
        return self.name, "" if what in self.name else what


class Candidates(Table[Measurement]):
    """The candidates in the order given."""

    columns = tuple(Measurement.__dataclass_fields__)
    numbers = columns[columns.index("gap") :]
    headings: tuple[tuple[str, str], ...] = tuple(
        field.metadata["heading"] for field in dataclasses.fields(Measurement) if field.metadata
    )

    def numeric(self) -> list[tuple[str, ...]]:
        """The cells of ``numbers``."""
        return [cells[-len(self.numbers) :] for cells in self.cells()]


@dataclass(frozen=True)
class Outcome:
    """A candidate's attributions, one array (N, …) for each attributed value, and its measurement.

    family: the method's name. value: the method with all its parameters; "" for another library's. outputs: shape of
    one sample's output.
    """

    measurement: Measurement
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
    """attributions: (N, …) each. outputs: f(x), (N, …). gap: as in :class:`Measurement`."""

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


class ExplainerRunner:
    """An explainer of this library."""

    def __init__(self, explain: Explainer) -> None:
        self.explain = explain
        self.method = short_name(explain.method)
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
        """The keyword arguments of a call; only methods that have a baseline get it."""
        has = self.explain.method.baseline != "none"
        return {"target": question.target, "baseline": question.baseline if has else None, "seed": question.seed}

    def answer(self, question: Question) -> Answer:
        explanation = self.explain.explanation(question.inputs, **self.arguments(question))
        parts = explanation.attributions
        parts = parts.values() if isinstance(parts, dict) else parts if isinstance(parts, tuple) else (parts,)
        gap = None if explanation.completeness_gap is None else explanation.largest_gap
        return Answer(tuple(map(on_host, parts)), explanation.outputs, gap)

    def call(self, question: Question) -> Any:
        return self.explain(question.inputs, **self.arguments(question))


def open_model(candidate: AnyCandidate) -> Any:
    """The candidate's model, loaded if it is a name or a path, which imports its framework; None for an Explainer."""
    if isinstance(candidate, Explainer):
        return None
    model = named_model(candidate.model) if isinstance(candidate.model, str) else candidate.model
    backend = find(model, "torch" if candidate.peer else candidate.backend)
    # another library rejects a plain function with an error of its own
    is_function = candidate.peer and callable(model) and not backend.accepts(model)
    return model if is_function else backend.opened(model)


def compile_candidate(candidate: AnyCandidate, model: Any, question: Question) -> Runner:
    """The candidate's runner, compiled for the question's inputs."""
    if isinstance(candidate, Explainer):
        return ExplainerRunner(candidate)
    if candidate.peer is not None:
        from . import peers

        return peers.compile_peer(candidate, model, question.with_arrays())
    options = {"inputs": question.example, **candidate.options}
    method = methods.resolve(candidate.method)
    return ExplainerRunner(
        Explainer.compile(model, method, backend=candidate.backend, engine=candidate.engine, **options)
    )


def outcome(candidate: AnyCandidate, question: Question, name: str = "") -> Outcome:
    """Compile the candidate, compute its attributions, and measure the cost."""
    model = open_model(candidate)
    with Memory() as memory:
        runner = compile_candidate(candidate, model, question)
        answer = runner.answer(question)
        _check(answer, question)
        one_seconds = all_seconds = rate = None
        if question.seconds:
            one_sample = question.subset(slice(0, 1), answer.outputs.shape[1:])
            one_seconds = _median(runner, one_sample, question.seconds)[0]
            all_seconds, rate = _median(runner, question, question.seconds)
    measurement = Measurement(
        name, runner.method, runner.backend, runner.engine, answer.gap, runner.compile_s, _ms(one_seconds),
        _ms(all_seconds), rate, memory.peak / 2**20, runner.traces,
    )  # fmt: skip
    return Outcome(measurement, runner.family, runner.value, answer.outputs.shape[1:], answer.attributions)


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
    """Median seconds of a call, and rows per second."""
    call: Callable[[Question], Any] = runner.call
    for _ in range(WARM):
        call(question)
    times: list[float] = []
    before = runner.rows
    while sum(times) < seconds or len(times) < LEAST:
        start = time.perf_counter()
        call(question)
        times.append(time.perf_counter() - start)
    rows = None if before is None or runner.rows is None else (runner.rows - before) / sum(times)
    return float(np.median(times)), rows


class Memory:
    """A context manager that measures how far this process's resident memory grows inside it; ``peak`` in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, self._process.memory_info().rss - self._before)
            if self._stop.wait(0.005):
                return
