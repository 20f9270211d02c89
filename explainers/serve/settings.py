"""The limits of a server."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import InputError


@dataclass(frozen=True)
class Settings:
    """What a server takes.

    Parameters
    ----------
    max_body: bytes of a request's body.
    max_effort: evaluations of the model for one request; effort parameters such as ``samples`` may not exceed it.
    max_steps: quadrature nodes for one instance.
    max_elements: numbers in the attributions of one request.
    queue_rows: evaluations of the model that may wait or run, in all; beyond it, 503.
    timeout: seconds for one request; a request may ask for less.
    body_timeout: seconds in which a body must have come.
    max_wait: seconds that a request may wait for others to share a package with.
    package_seconds: that a package may take, so that a small request does not wait long for the one that runs.
    batching: False runs the requests one after the other.
    keys: bearer tokens, of which a request must have one; none: no key is asked for.
    hosts: names that the Host header may have; none: any.
    variants: explainers of other effort that are kept for each model.
    stream_interval: least seconds between two events of a stream.
    """

    max_body: int = 64 * 2**20
    max_effort: int = 2**18
    max_steps: int = 4096
    max_elements: int = 2**26
    queue_rows: int = 2**20
    timeout: float = 60.0
    body_timeout: float = 30.0
    max_wait: float = 0.001
    package_seconds: float = 0.015
    batching: bool = True
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    variants: int = 64
    stream_interval: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and field.name not in ("max_wait", "batching") and not value > 0:
                raise InputError(f"{field.name} must be above 0; got {value!r}")
        for name in ("keys", "hosts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not all(self.keys):
            raise InputError("a key must not be empty")


def read_keys(path: str | Path) -> tuple[str, ...]:
    """The keys of a file, one a line; empty lines and lines that start with ``#`` are left out."""
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise InputError(f"{path} holds no key: write one a line")
    return keys
