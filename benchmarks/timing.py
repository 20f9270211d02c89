"""Interleaved medians: each round runs every candidate once, so drift falls on all alike."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping


def medians(candidates: Mapping[str, Callable[[], object]], seconds: float, least: int = 7) -> dict[str, float]:
    """Median seconds of each candidate over rounds that fill ``seconds``, at least ``least`` of them."""
    for run in candidates.values():
        for _ in range(4):
            run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    began = time.perf_counter()
    rounds = 0
    while rounds < least or (time.perf_counter() - began < seconds and rounds < 3000):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
        rounds += 1
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> str:
    """Processor, cores and Python, without names of hosts or paths."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"
