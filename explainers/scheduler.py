"""A scheduler that fills packages with rows from the calls of many clients.

A call is a generator of pieces (:mod:`explainers.run.base`). The scheduler keeps one waiting piece of every
call and fills each package from the pieces that may share one, whatever their targets, baselines, steps
and seeds: a hundred small requests cost what one large batch does. Calls take turns, so that short ones
overtake long ones. One thread for each device runs the kernels.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from .errors import InputError, QueueFull
from .explainer.api import Explainer
from .explainer.explanation import Explanation
from .explainer.request import Request
from .forks import Home
from .run import Packages
from .run.base import Run, Steps
from .run.call import Chunk, Piece, Results

LEAST_ROOM = 16  # minimum room of a package in rows, however long they take
LEAST_TURN = 32  # rows that one piece of a call may have where packages are made smaller
MOST_TURNS = 4  # parts of a package that calls take turns in: more parts cost more than they gain
PACE = 0.1  # weight of the latest package in the running estimate of seconds per row
SHORT = 8  # new calls run alone if they fill at most this part of a package


@dataclass
class SchedulerStats:
    """Counts of the work a scheduler has done and of the rows that wait."""

    calls: int = 0
    packages: int = 0
    rows: int = 0
    places: int = 0  # total room of the packages, in rows
    waiting_calls: int = 0
    waiting_rows: int = 0


@dataclass(eq=False)
class _Job:
    """A call in progress, with its waiting piece."""

    future: Future[Any]
    request: Request
    rows: int
    arrived: float
    deadline: float | None
    steps: Steps[list[Chunk]]
    piece: Piece | None = None

    @property
    def packages(self) -> Packages:
        return self.request.packages

    @property
    def wants(self) -> int:
        """The rows of its piece."""
        return len(self.piece) if self.piece else 0


@dataclass(eq=False)
class _Task:
    """A function to run on the device's thread, between packages."""

    future: Future[Any]
    function: Callable[[], Any]
    rows: int = 0


@dataclass
class _Queue:
    """Calls whose next pieces may share a package, in two lines: those that had a turn already, and new ones."""

    old: deque[_Job] = field(default_factory=deque)
    new: deque[_Job] = field(default_factory=deque)
    rows: int = 0

    def add(self, job: _Job, new: bool) -> None:
        (self.new if new else self.old).append(job)
        self.rows += job.wants

    @property
    def jobs(self) -> list[_Job]:
        return [*self.new, *self.old]

    @property
    def first(self) -> _Job:
        """The call that is next in line, of those that had a turn if there are any."""
        return self.old[0] if self.old else self.new[0]

    @property
    def new_rows(self) -> int:
        return sum(job.wants for job in self.new)

    def take(self, most: int, *, new_first: bool) -> list[_Job]:
        """The next calls whose pieces fit into a package of ``most`` rows, at least one.

        The kind of calls that goes first gets at most half of it while the other kind waits. New calls run alone if
        they go first and are few.
        """
        taken: list[_Job] = []
        left = most
        first, second = (self.new, self.old) if new_first else (self.old, self.new)
        alone = new_first and self.new_rows * SHORT <= most
        shares = [(first, most // 2 if second else 0), *([] if alone else [(second, 0), (first, 0)])]
        for jobs, kept in shares:
            while jobs and (not taken or jobs[0].wants <= left - kept):
                left -= jobs[0].wants
                taken.append(jobs.popleft())
        self.rows -= most - left
        return taken


class Scheduler:
    """Runs calls of any number of explainers, several in one package.

    Parameters
    ----------
    max_wait: seconds that a call may wait for others to fill its package with.
    queue_rows: rows of calls that wait or run, in all; a call beyond them raises QueueFull. A call to an
        empty queue is always accepted.
    batching: False runs the calls one after the other, each in packages of its own.
    package_seconds: packages that take longer are made smaller, so that no call waits long for the running one;
        None leaves them as large as the explainers make them.

    >>> import numpy as np
    >>> explain = Explainer.compile(lambda x: x.sum(axis=1), "exact_shapley")
    >>> with Scheduler() as scheduler:
    ...     future = scheduler.submit(explain, np.array([[1.0, 2.0]]))
    ...     future.result().attributions
    array([[1., 2.]])
    """

    def __init__(
        self,
        *,
        max_wait: float = 0.001,
        queue_rows: int = 2**20,
        batching: bool = True,
        package_seconds: float | None = None,
    ) -> None:
        self.package_seconds = package_seconds
        if not max_wait >= 0 or queue_rows < 1:
            raise InputError(f"max_wait must be ≥ 0 and queue_rows ≥ 1; got {max_wait!r} and {queue_rows!r}")
        self.max_wait, self.queue_rows, self.batching = max_wait, queue_rows, batching
        self.stats = SchedulerStats()
        self._devices: dict[str, _Device] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._home = Home("this scheduler")

    def submit(
        self,
        explain: Explainer,
        *inputs: Any,
        timeout: float | None = None,
        watch: Callable[[Run], None] | None = None,
        **arguments: Any,
    ) -> Future[Explanation]:
        """A Future of what ``explain.explanation(*inputs, **arguments)`` returns.

        ``timeout``: seconds after which the Future has a TimeoutError. ``watch`` is called on the device's
        thread after each of the call's pieces, with the run in progress. Cancelling the Future drops the rows
        that have not run.

        Raises
        ------
        QueueFull. InputError and its kinds: as for calling.
        """
        return self.enqueue(explain.request(*inputs, **arguments), timeout=timeout, watch=watch)

    def enqueue(
        self, request: Request, *, timeout: float | None = None, watch: Callable[[Run], None] | None = None
    ) -> Future[Explanation]:
        """Like :meth:`submit`, for a request from :meth:`.Explainer.request`."""
        if request.explainer.method.generates:
            raise InputError("Perturbation generates samples on the host, by itself; call the explainer instead")
        if request.explainer.interacting:
            raise InputError("interacting=True runs each call as one batch, unmixed; call the explainer instead")
        request.call.watch = watch
        now = time.monotonic()
        deadline = None if timeout is None else now + timeout
        steps = request.packages.steps(request.call)
        job = _Job(Future(), request, request.rows, now, deadline, steps)
        self._device(str(request.packages.traced.device)).admit(job)
        return job.future

    def run(self, explain: Explainer, function: Callable[[], Any], rows: int = 0) -> Future[Any]:
        """What ``function()`` returns, called on the thread of the device that ``explain`` runs on.

        ``rows``: evaluations of the model that it makes, counted towards the queue's limit.
        """
        task = _Task(Future(), function, rows)
        self._device(str(explain.device)).admit(task)
        return task.future

    def _device(self, name: str) -> _Device:
        self._home.check()
        with self._lock:
            if self._closed:
                raise RuntimeError("the scheduler is closed")
            if name not in self._devices:
                self._devices[name] = _Device(self, name)
            return self._devices[name]

    def reserve(self, rows: int) -> None:
        """Reserve ``rows`` places in the queue."""
        with self._lock:
            stats = self.stats
            if stats.waiting_rows and stats.waiting_rows + rows > self.queue_rows:
                raise QueueFull(
                    f"{stats.waiting_rows} rows are waiting and {rows} more do not fit: the queue "
                    f"holds {self.queue_rows}. Try again later."
                )
            stats.calls += 1
            stats.waiting_calls += 1
            stats.waiting_rows += rows

    def release(self, rows: int) -> None:
        with self._lock:
            self.stats.waiting_calls -= 1
            self.stats.waiting_rows -= rows

    def ran(self, rows: int, places: int) -> None:
        with self._lock:
            self.stats.packages += 1
            self.stats.rows += rows
            self.stats.places += max(places, rows)

    def close(self, drain: bool = True) -> None:
        """Accept no more calls. ``drain``: finish those already accepted; otherwise cancel them."""
        with self._lock:
            self._closed = True
            devices = list(self._devices.values())
        for device in devices:
            device.close(drain)

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *error: object) -> None:
        self.close(drain=error[0] is None)


class _Device:
    """The thread that runs the kernels of one device, and its queues."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.scheduler = scheduler
        self.queues: OrderedDict[Hashable, _Queue] = OrderedDict()
        self.arrived: deque[_Job | _Task] = deque()
        self.active: dict[Any, int] = {}  # calls in progress by family
        self.rooms: dict[Any, int] = {}  # rows of a package that the memory holds, by family
        self.paces: dict[Any, float] = {}  # seconds of a row, by family
        self.closing = self.dropping = False
        self.overtaking = False  # whether new calls just went ahead of older ones
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, name=f"explainers {name}", daemon=True)
        self.thread.start()

    def admit(self, job: _Job | _Task) -> None:
        with self.changed:
            if self.closing:
                raise RuntimeError("the scheduler is closed")
            self.scheduler.reserve(job.rows)
            self.arrived.append(job)
            self.changed.notify()

    def close(self, drain: bool) -> None:
        with self.changed:
            self.closing, self.dropping = True, not drain
            self.changed.notify()
        self.thread.join()

    # --- the thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self.arrived and not self.queues:
                    if self.closing:
                        return
                    self.changed.wait()
            try:
                self._start()
                key = self._next()
                if key is not None:
                    self._package(key)
            except BaseException as error:  # so that no client waits forever
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self.changed:
            jobs = [*self.arrived, *(job for queue in self.queues.values() for job in queue.jobs)]
            self.arrived.clear()
            self.queues.clear()
            self.active.clear()
        for job in jobs:
            self.scheduler.release(job.rows)
            _refuse(job.future, error)

    def _start(self) -> None:
        """Start the calls that have arrived."""
        while self.arrived:
            job = self.arrived.popleft()
            if isinstance(job, _Task):
                if not (self.dropping and job.future.cancel()) and not job.future.cancelled():
                    _settle(job.future, job.function)
                self.scheduler.release(job.rows)
                continue
            family = job.packages.family
            self.active[family] = self.active.get(family, 0) + 1
            self._advance(job, lambda job=job: next(job.steps))  # type: ignore[misc]

    def _next(self) -> Hashable | None:
        """Wait for a queue that is full or has waited long enough; return the one whose turn it is."""
        if not self.scheduler.batching:
            return next(iter(self.queues), None)
        wait = self.scheduler.max_wait
        while self.queues:
            now = time.monotonic()
            soonest = wait
            ready = []
            for key, queue in self.queues.items():
                first = queue.first
                left = first.arrived + wait - now
                if left <= 0 or self.closing or queue.rows >= self._room(first.packages):
                    ready.append(key)
                soonest = min(soonest, left)
            if ready:
                return self._turn(ready)
            with self.changed:
                if not self.arrived:
                    self.changed.wait(soonest)
            if self.arrived:
                self._start()
        return None

    def _turn(self, ready: list[Hashable]) -> Hashable:
        """The queue that comes first; for every second package, the one with the fewest new calls, if there are any."""
        new = [] if self.overtaking else [key for key, queue in self.queues.items() if queue.new]
        self.overtaking = bool(new) and (len(self.queues) > 1 or bool(self.queues[ready[0]].old))
        return min(new, key=lambda key: self.queues[key].new_rows, default=ready[0])

    def _package(self, key: Hashable) -> None:
        """Run one package of the queue, and advance its calls."""
        queue = self.queues[key]
        packages = queue.first.packages
        room = self._room(packages)
        jobs = queue.take(room, new_first=self.overtaking)
        if not queue.rows:
            self.queues.pop(key)
        elif not self.overtaking:
            self.queues.move_to_end(key)
        jobs = [job for job in jobs if not self._ended(job)]
        if not jobs:
            return
        pieces = [job.piece for job in jobs if job.piece is not None]
        rows = sum(map(len, pieces))
        self.scheduler.ran(rows, room)
        began = time.perf_counter()
        try:
            results = packages.execute(pieces)
        except Exception as error:
            if packages.backend.is_out_of_memory(error):
                self.rooms[packages.family] = max(rows // 2, 1)
            self._one_by_one(jobs, error)
            return
        for job, result in zip(jobs, results, strict=True):
            self._advance(job, lambda job=job, result=result: job.steps.send(result))  # type: ignore[misc]
        self._fit(packages, rows, time.perf_counter() - began)

    def _room(self, packages: Packages) -> int:
        """The rows of a package that fits the memory and the time limit."""
        family = packages.family
        room = min(packages.room, self.rooms.get(family, packages.room))
        most, pace = self.scheduler.package_seconds, self.paces.get(family)
        if most is None or pace is None:
            return room
        rows = max(LEAST_ROOM, int(most / pace))
        return min(room, rows - rows % (1 << rows.bit_length() - 3))  # rounded: pieces are cut before they are packed

    def _fit(self, packages: Packages, rows: int, seconds: float) -> None:
        """Update the seconds per row from packages that are full enough."""
        if packages.static or seconds <= 0:  # a static engine would compile a kernel for each size
            return
        pace, known = seconds / rows, self.paces.get(packages.family)
        if known is None and rows >= LEAST_ROOM:
            self.paces[packages.family] = pace
        elif known is not None and 2 * rows > self._room(packages):
            self.paces[packages.family] = known + PACE * (pace - known)

    def _one_by_one(self, jobs: list[_Job], error: Exception) -> None:
        """After a package has failed, run its pieces one by one to find the one at fault."""
        for job in jobs:
            failure, result = error, None
            assert job.piece is not None
            if len(jobs) > 1:
                try:
                    result = job.packages.execute([job.piece])[0]
                except Exception as own:
                    failure = own
            self._advance(job, _sender(job.steps, result, failure))

    def _advance(self, job: _Job, step: Callable[[], Piece]) -> None:
        """The call's next piece, into its queue, or its result."""
        if self._ended(job):
            return
        family = job.packages.family
        room = self._room(job.packages)
        turns = min(self.active[family], MOST_TURNS) if self.scheduler.batching else 1
        if room < job.packages.room:
            turns = min(turns, max(1, room // LEAST_TURN))
        job.request.call.batch_size = max(room // turns, 1)
        began = job.piece is not None
        try:
            job.piece = step()
        except StopIteration as stop:
            chunks: list[Chunk] = stop.value
            self._finish(job)
            _settle(job.future, lambda: job.request.explanation(chunks))
        except BaseException as error:
            self._finish(job)
            _refuse(job.future, error)
        else:
            key = (family, job.piece.key) if self.scheduler.batching else job
            self.queues.setdefault(key, _Queue()).add(job, new=not began)
            if began and not self.scheduler.batching:
                self.queues.move_to_end(key, last=False)  # one call after the other

    def _ended(self, job: _Job) -> bool:
        """Whether the call is cancelled or has timed out."""
        if self.dropping:
            job.future.cancel()
        late = job.deadline is not None and time.monotonic() > job.deadline
        if not late and not job.future.cancelled():
            return False
        job.steps.close()
        self._finish(job)
        if late:
            _refuse(job.future, TimeoutError("the call did not finish within its timeout"))
        return True

    def _finish(self, job: _Job) -> None:
        family = job.packages.family
        self.active[family] -= 1
        if not self.active[family]:
            del self.active[family]
        self.scheduler.release(job.rows)


def _sender(steps: Steps[list[Chunk]], result: Results | None, failure: Exception) -> Callable[[], Piece]:
    return lambda: steps.throw(failure) if result is None else steps.send(result)


def _settle(future: Future[Any], function: Callable[[], Any]) -> None:
    """Set the future to what ``function`` returns or raises."""
    try:
        result = function()
    except BaseException as error:
        _refuse(future, error)
    else:
        with contextlib.suppress(InvalidStateError):  # cancelled
            future.set_result(result)


def _refuse(future: Future[Any], error: BaseException) -> None:
    with contextlib.suppress(InvalidStateError):  # cancelled
        future.set_exception(error)
