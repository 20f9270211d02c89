"""What processes of a cluster keep: things that travel as bytes and are made once in each, and their share of cores."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Generic, TypeVar

from .errors import ArtifactError

TRIM, MMAP, KEPT = -1, -3, 2**25  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, and bytes for them
Made = TypeVar("Made")


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class PerProcess(Generic[Made]):
    """Things by the checksum of the bytes that they are made from; ``most`` of them are kept."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.known: dict[str, Made] = {}
        self.lock = threading.Lock()

    def get(self, content: bytes, expected: str, make: Callable[[bytes], Made]) -> Made:
        """What ``make`` makes of the bytes, which have the checksum ``expected``; made at the first request."""
        with self.lock:
            found = self.known.get(expected)
            if found is None:
                if checksum(content) != expected:
                    raise ArtifactError("the bytes changed on their way to the worker")
                found = make(content)
                while len(self.known) >= self.most:
                    del self.known[next(iter(self.known))]
                self.known[expected] = found
            return found


def share_cores(backend: str) -> None:
    """Give each task of a worker process the cores that its environment names, which dask sets to one.

    Frameworks take all cores in every task otherwise, and those of several workers wait for one another.
    """
    try:
        worker = import_module("distributed").get_worker()
    except (ImportError, ValueError):
        return  # no worker of a cluster
    if worker.nanny is None:
        return  # in a process that is not the cluster's alone
    _keep_freed_memory()
    cores = int(os.environ.get("OMP_NUM_THREADS", "1"))
    if backend == "torch":
        import_module("torch").set_num_threads(cores)
    elif backend == "tensorflow":
        with contextlib.suppress(RuntimeError):  # it runs already, with threads of its own
            import_module("tensorflow").config.threading.set_intra_op_parallelism_threads(cores)


def _keep_freed_memory() -> None:
    """Let a worker use memory that it has freed again, instead of asking the system for it in each package.

    dask sets ``MALLOC_TRIM_THRESHOLD_`` to 64 kB, which makes glibc map and unmap every array: on two workers of two
    cores, half of their time was spent in page faults.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:  # of glibc
        mallopt(TRIM, KEPT)
        mallopt(MMAP, KEPT)
