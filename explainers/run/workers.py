"""Workers that run users' generators, one sample at a time each, ahead of the consumer.

Their results pass through a bounded queue. An error, a generator that takes too long, or the death of a
worker is raised as a :class:`~explainers.errors.PerturbationError` that names the sample.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from ..errors import PerturbationError

Task = tuple[int, Sequence[Any]]  # a sample's number and the arguments of its generator
LOOK = 0.05  # seconds between looks at the workers
FLUSH = 0.02  # seconds for which a process collects results before it sends them


def produce(
    function: Callable[..., Iterable[Any]], tasks: Iterator[Task], *, workers: int, processes: bool, timeout: float,
    ready: int, name: Callable[[int], str],
) -> Generator[tuple[int, Any], None, None]:  # fmt: skip
    """Yield (sample, item of its generator) as items arrive, in order within a sample, and (sample, END) at its end.

    ``tasks`` is iterated on the caller's thread. ``ready``: most items that may wait.
    """
    pool: _Pool = (_Processes if processes else _Threads)(function, workers, ready)
    left = iter(tasks)
    open_tasks = 0
    try:
        for worker in range(workers):
            open_tasks += pool.give(worker, next(left, None))
        while open_tasks:
            for worker, sample, kind, payload in pool.take():
                if kind == "error":
                    raise PerturbationError(f"generate failed at {name(sample)}:\n{payload}")
                if kind == "end":
                    open_tasks += pool.give(worker, next(left, None)) - 1
                    yield sample, END
                else:
                    for item in payload:
                        yield sample, item
            pool.look(timeout, name)
    finally:
        pool.stop()


class _End:
    def __repr__(self) -> str:
        return "END"


END = _End()


class _Pool:
    """A pool of workers, each of which reports its current sample and when its current step began."""

    def __init__(self, function: Callable[..., Iterable[Any]], workers: int) -> None:
        self.function = function
        self.samples: list[int | None] = [None] * workers

    def give(self, worker: int, task: Task | None) -> int:
        """Hand out the worker's next task, if any; returns the number of tasks handed out."""
        self.samples[worker] = None if task is None else task[0]
        self._send(worker, task)
        return int(task is not None)

    def take(self) -> Iterator[tuple[int, int, str, Any]]:
        """The items that are ready. Returns after ``LOOK`` seconds or when none is left, to check the workers."""
        until = time.monotonic() + LOOK
        with contextlib.suppress(queue.Empty):
            yield self.made.get(timeout=LOOK)
            while time.monotonic() < until:
                yield self.made.get_nowait()

    def look(self, timeout: float, name: Callable[[int], str]) -> None:
        """Raise if a worker has died or takes too long."""
        for worker, sample in enumerate(self.samples):
            if sample is None:
                continue
            if not self._alive(worker):
                raise PerturbationError(f"the worker at {name(sample)} ended unexpectedly ({self._how(worker)})")
            since = self._since(worker)
            if since and time.monotonic() - since > timeout:
                raise PerturbationError(f"generate at {name(sample)} took more than {timeout:g} seconds for one step")

    made: Any

    def _send(self, worker: int, task: Task | None) -> None:
        raise NotImplementedError

    def _alive(self, worker: int) -> bool:
        raise NotImplementedError

    def _how(self, worker: int) -> str:
        raise NotImplementedError

    def _since(self, worker: int) -> float:
        """The time at which the step in progress began; 0 if there is none."""
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


class _Threads(_Pool):
    def __init__(self, function: Callable[..., Iterable[Any]], workers: int, ready: int) -> None:
        super().__init__(function, workers)
        self.made: queue.Queue[Any] = queue.Queue(ready)
        self.tasks: list[queue.SimpleQueue[Task | None]] = [queue.SimpleQueue() for _ in range(workers)]
        self.began = [0.0] * workers
        self.stopped = threading.Event()
        self.threads = [
            threading.Thread(target=self._work, args=(i,), daemon=True, name=f"perturbation-{i}")
            for i in range(workers)
        ]
        for thread in self.threads:
            thread.start()

    def _work(self, worker: int) -> None:
        def clock(began: float) -> None:
            self.began[worker] = began

        def put(*message: Any) -> None:
            while not self.stopped.is_set():
                with contextlib.suppress(queue.Full):
                    self.made.put((worker, *message), timeout=LOOK)
                    return
            raise _Stopped

        with contextlib.suppress(_Stopped):
            while (task := self.tasks[worker].get()) is not None:
                _run(self.function, task, put, clock, 0.0)

    def _send(self, worker: int, task: Task | None) -> None:
        self.tasks[worker].put(task)

    def _alive(self, worker: int) -> bool:
        return self.threads[worker].is_alive()

    def _how(self, worker: int) -> str:
        return "its thread has ended"

    def _since(self, worker: int) -> float:
        return self.began[worker]

    def stop(self) -> None:
        self.stopped.set()
        for tasks in self.tasks:
            tasks.put(None)


class _Stopped(Exception):
    """Raised in a worker whose results are no longer needed."""


class _Processes(_Pool):
    def __init__(self, function: Callable[..., Iterable[Any]], workers: int, ready: int) -> None:
        super().__init__(function, workers)
        context = multiprocessing.get_context("spawn")
        self.made = context.Queue(max(ready // 4, 2))
        self.tasks = [context.SimpleQueue() for _ in range(workers)]
        self.began = [context.Value("d", 0.0) for _ in range(workers)]
        self.processes = [
            context.Process(target=_process, args=(i, function, self.tasks[i], self.made, self.began[i]), daemon=True)
            for i in range(workers)
        ]
        try:
            for process in self.processes:
                process.start()
        except (AttributeError, TypeError, ImportError) as error:  # the exceptions that pickle raises
            raise PerturbationError(
                f"generate ({function!r}) cannot be sent to a process: {error}. "
                "Use a function defined at the top level of a module, or threads."
            ) from error

    def _send(self, worker: int, task: Task | None) -> None:
        self.tasks[worker].put(task)

    def _alive(self, worker: int) -> bool:
        return self.processes[worker].is_alive()

    def _how(self, worker: int) -> str:
        return f"exit code {self.processes[worker].exitcode}"

    def _since(self, worker: int) -> float:
        return float(self.began[worker].value)

    def stop(self) -> None:
        for process in self.processes:
            if process.pid is not None:
                process.terminate()
        for process in self.processes:
            if process.pid is not None:
                process.join(5)
        self.made.close()
        self.made.cancel_join_thread()


def _process(worker: int, function: Callable[..., Iterable[Any]], tasks: Any, made: Any, began: Any) -> None:
    def clock(value: float) -> None:
        began.value = value

    while (task := tasks.get()) is not None:
        _run(function, task, lambda *message: made.put((worker, *message)), clock, FLUSH)


def _run(
    function: Callable[..., Iterable[Any]], task: Task, put: Callable[..., None], clock: Callable[[float], None],
    flush: float,
) -> None:  # fmt: skip
    """Run one sample's generator to its end; put its items on the queue, collected over ``flush`` seconds."""
    sample, arguments = task
    gathered: list[Any] = []
    last = time.monotonic()
    try:
        clock(time.monotonic())
        items = iter(function(*arguments))
        while True:
            clock(time.monotonic())
            item = next(items, END)
            clock(0.0)
            if item is END:
                break
            gathered.append(item)
            if time.monotonic() - last >= flush:
                put(sample, "items", gathered)
                gathered, last = [], time.monotonic()
        if gathered:
            put(sample, "items", gathered)
        put(sample, "end", None)
    except _Stopped:
        raise
    except BaseException:
        clock(0.0)
        put(sample, "error", traceback.format_exc())
