"""What goes through a call: the request, what of it is on the device, its rows, and its results."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from .counter import UInt64
from .spec import Array, Baseline, Numpy, Target

Progress = Callable[[int], None]


@dataclass
class Stats:
    """What an explainer has done so far. Counts are exact under threads; times are wall seconds."""

    traces: int = 0
    compiled_shapes: list[str] = field(default_factory=list)
    calls: int = 0
    rows: int = 0
    padded_rows: int = 0
    out_of_memory: int = 0
    batch_size: int = 0
    seconds_tracing: float = 0.0
    seconds_compiling: float = 0.0
    seconds_running: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def called(self) -> None:
        with self._lock:
            self.calls += 1

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
    """One call, bound and checked. ``inputs``: in the signature's order, numpy or the backend's own."""

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

    def __len__(self) -> int:
        return self.count


@dataclass(slots=True)
class Chunk:
    """Results of a run of samples: one entry per attributed value; numpy or the backend's own arrays."""

    start: int
    stop: int
    attributions: list[Array]
    standard_errors: list[Numpy | None]
    outputs: Numpy | None = None
    baseline_outputs: Numpy | None = None
    target: Target | None = None
    evaluations: Numpy | None = None
    totals: Numpy | None = None  # Σ attribution of each sample, where elements share features


@dataclass(slots=True)
class Staged:
    """A chunk on the device: what packages take slices of."""

    count: int
    inputs: list[Array]
    mask: Array
    choose: Array
    tables: list[Array]
    baseline: Baseline | None
    seeds: UInt64 | None


@dataclass(slots=True)
class Rows:
    """The rows of a package: each one's sample and baseline, and the method's values; ``staged``: on the device."""

    sample: Numpy
    baseline: Numpy
    values: dict[str, Numpy]
    staged: dict[str, Array] = field(default_factory=dict)


def reporter(progress: bool | Callable[[int, int], None], total: int) -> Callable[[int], None]:
    """Adds up the rows of packages and shows them."""
    done = 0
    if progress is True:
        from tqdm.auto import tqdm

        bar = tqdm(total=total, unit="row", unit_scale=True)

        def show(rows: int) -> None:
            bar.update(rows)
            if bar.n >= total:
                bar.close()

        return show
    assert callable(progress)

    def report(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, total)

    return report
