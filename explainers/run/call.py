"""The data of a call: the request, its staged samples on the device, its rows, and its results."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..methods.groups import SampleGroups
from ..random_numbers import UInt64
from ..spec import Array, Baseline, Numpy, Target

Progress = Callable[[int], None]
Results = tuple[Array, ...]  # the arguments of a kernel


@dataclass
class Stats:
    """Counts and times of an explainer's work so far. Counts are exact under threads; times are wall seconds.

    ``traces``: programs of this explainer that were traced, one for each kernel that was not loaded from a file.
    ``model_traces``: traces of the model itself that this explainer made; 0 if all that it needs were made by others
    that were compiled together with it. ``seconds_tracing`` counts them where they were made.
    """

    traces: int = 0
    model_traces: int = 0
    compiled_shapes: list[str] = field(default_factory=list)
    calls: int = 0
    rows: int = 0
    padded_rows: int = 0
    out_of_memory: int = 0
    incomplete: int = 0
    batch_size: int = 0
    seconds_tracing: float = 0.0
    seconds_compiling: float = 0.0
    seconds_running: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def called(self) -> None:
        with self._lock:
            self.calls += 1

    def lost(self, samples: int) -> None:
        """Count ``samples`` whose attributions do not add up."""
        with self._lock:
            self.incomplete += samples

    def ran(self, rows: int, padded: int, seconds: float) -> None:
        with self._lock:
            self.rows += rows
            self.padded_rows += padded
            self.seconds_running += seconds

    def compiled(self, shape: str, seconds: float, traced: bool) -> None:
        with self._lock:
            self.traces += traced
            self.compiled_shapes.append(shape)
            self.seconds_compiling += seconds


@dataclass(slots=True)
class Call:
    """One call, with its arguments bound and checked. ``inputs``: in the signature's order, numpy or the backend's own.

    ``batch_size``: the most rows of one package.
    """

    count: int
    inputs: list[Array]
    target: Target
    baseline: Baseline | None
    seeds: UInt64 | None
    batch_size: int
    check: bool
    details: bool = False
    progress: Progress | None = None
    attribution: list[Numpy] | None = None  # for generators of perturbed samples
    groups: SampleGroups | None = None
    watch: Callable[[Any], None] | None = None  # called with the run after each of its pieces

    def __len__(self) -> int:
        return self.count


class Ends(NamedTuple):
    """The outputs whose difference attributions sum to: f at the samples and at their references, on any device.

    y: (n, …). y_r: (n, …) or (1, …); None stands for 0.
    """

    y: Array
    y_r: Array | None


@dataclass(slots=True)
class Chunk:
    """Results for consecutive samples: one entry per attributed value; numpy or the backend's own arrays."""

    start: int
    stop: int
    attributions: list[Array]
    standard_errors: list[Numpy | None]
    outputs: Numpy | None = None
    baseline_outputs: Numpy | None = None
    target: Target | None = None
    evaluations: Numpy | None = None
    totals: Numpy | None = None  # Σ attribution of each sample, where elements share features
    ends: Ends | None = None  # of methods whose rules may promise completeness
    finite: bool = False  # whether the attributions are known to be finite


@dataclass(slots=True)
class Staged:
    """A chunk of samples on the device, which packages take slices of."""

    count: int
    inputs: list[Array]
    mask: Array
    choose: Array
    tables: list[Array]
    baseline: Baseline | None
    seeds: UInt64 | None

    def table_rows(self, sample: Numpy, reference: Numpy) -> Numpy:
        """The rows of ``tables`` that hold ``reference`` of ``sample``, for a distribution of baselines."""
        own = self.baseline is not None and self.baseline.own
        return reference + sample * len(self.baseline or ()) if own else reference


@dataclass(slots=True)
class Rows:
    """The rows of a package: each one's sample and baseline, and the method's values; ``staged``: on the device.

    ``arguments``: the kernel's arguments that do not depend on the samples, where they are known: the last ones.
    """

    sample: Numpy
    baseline: Numpy
    values: dict[str, Numpy]
    staged: dict[str, Array] = field(default_factory=dict)
    arguments: list[Array] | None = None


@dataclass(slots=True)
class Piece:
    """Rows that a run asks to execute: of the samples first … last−1 of ``staged``.

    ``kind``: ``"samples"`` (one row each), ``"rows"``, ``"aligned"`` (each against its reference, whose
    ``activations`` have as many rows as there are samples, or one) or ``"grid"`` (each against ``references``).
    """

    kind: str
    staged: Staged
    first: int
    last: int
    rows: Rows | None = None
    activations: list[Array] = field(default_factory=list)
    references: int = 1
    part: str = ""

    def __len__(self) -> int:
        """Number of evaluations of the model."""
        return len(self.rows.sample) if self.rows else self.count * self.references

    @property
    def count(self) -> int:
        return self.last - self.first

    @property
    def whole(self) -> bool:
        return self.first == 0 and self.last == self.staged.count

    @property
    def shared(self) -> bool:
        """Whether all samples have the same reference activations."""
        return self.kind == "grid" or (self.kind == "aligned" and int(self.activations[0].shape[0]) == 1)

    @property
    def key(self) -> Any:
        """Pieces with equal keys may run in one package."""
        baseline = self.staged.baseline
        kept = self.shared and baseline is not None and (self.kind == "grid" or baseline.fixed)
        choose = None if self.kind == "rows" else id(self.staged.choose)
        return self.kind, self.part, choose, id(self.activations) if kept else None

    def samples(self) -> list[Array]:
        """The inputs and the mask of its samples."""
        arrays = [*self.staged.inputs, self.staged.mask]
        return arrays if self.whole else [array[self.first : self.last] for array in arrays]


def reporter(
    progress: bool | Callable[[int, int], None], total: int | None, unit: str = "row"
) -> Callable[[int], None]:
    """A function that is told how many rows each package had, or samples each block, and reports the progress.

    ``total``: None if it is not known; a function is told 0 then.
    """
    done = 0
    if progress is True:
        from tqdm.auto import tqdm

        bar = tqdm(total=total, unit=unit, unit_scale=True)

        def show(rows: int) -> None:
            bar.update(rows)
            if total is not None and bar.n >= total:
                bar.close()

        return show
    assert callable(progress)

    def report(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, total or 0)

    return report
