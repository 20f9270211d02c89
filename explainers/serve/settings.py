"""The limits of a server."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import InputError


@dataclass(frozen=True)
class Settings:
    """The limits and options of a server.

    Parameters
    ----------
    max_body: largest size of a request's body, in bytes.
    max_effort: largest number of model evaluations for one request, and largest value of effort parameters such as
        ``samples``.
    max_steps: largest number of quadrature nodes for one instance.
    max_elements: largest number of numbers in the attributions of one request.
    queue_rows: largest number of model evaluations that wait or run, in total; further requests get 503.
    timeout: seconds for one request; a request may set a shorter timeout.
    body_timeout: seconds within which a body must arrive.
    answer_timeout: seconds within which a client must read what was sent to it.
    max_wait: seconds that a request may wait for other requests to share a package with.
    package_seconds: target duration of a package, so that small requests do not wait long behind a running one.
    batching: False runs the requests one after the other.
    keys: bearer tokens, one of which every request must send; without any, no key is required.
    hosts: allowed values of the Host header; without any, all are allowed.
    variants: how many explainers with other effort parameters are cached for each model.
    stream_interval: smallest number of seconds between two events of a stream.
    """

    max_body: int = 64 * 2**20
    max_effort: int = 2**18
    max_steps: int = 4096
    max_elements: int = 2**26
    queue_rows: int = 2**20
    timeout: float = 60.0
    body_timeout: float = 30.0
    answer_timeout: float = 60.0
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
    """The keys in a file, one per line; empty lines and lines that start with ``#`` are skipped."""
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise InputError(f"{path} holds no key: write one a line")
    return keys
