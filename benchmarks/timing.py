"""Interleaved timing: each round runs every candidate once, so that drift affects all of them alike."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping

Candidates = Mapping[str, Callable[[], object]]
Rounds = dict[str, list[float]]  # seconds of each candidate in each round


def rounds(
    candidates: Candidates, seconds: float, *, least_rounds: int = 9, most_rounds: int = 3000, warm: float = 0.3
) -> Rounds:
    """Times of each candidate over rounds that fill ``seconds``.

    There are at least ``least_rounds`` rounds, or at least 3 if they would take more than 8 times ``seconds``. Before
    them, each candidate runs for ``warm`` seconds and at least 3 times, because TorchScript specializes in its first
    runs. Each round starts with another candidate, so that no candidate always follows the same one.
    """
    for run in candidates.values():
        start, runs = time.perf_counter(), 0
        while runs < 3 or time.perf_counter() - start < warm:
            run()
            runs += 1
    order = list(candidates.items())
    times: Rounds = {name: [] for name in candidates}
    start = time.perf_counter()
    for count in range(most_rounds):
        spent = time.perf_counter() - start
        if spent >= seconds and (count >= least_rounds or (count >= 3 and spent >= 8 * seconds)):
            break
        for name, run in order:
            round_start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - round_start)
        order.append(order.pop(0))
    return times


def median(times: list[float]) -> float:
    return statistics.median(times)


def ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Median of ``above / below`` round by round, with its lower and upper quartile."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(above, below, strict=True)], n=4)
    return middle, low, high


def machine() -> str:
    """Processor, cores, load and Python, without names of hosts or paths."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {os.cpu_count()} cores{load}, {platform.system()}, Python {platform.python_version()}"
