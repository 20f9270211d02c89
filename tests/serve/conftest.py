"""Servers that several tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .live import Live, live
from .nets import Gate, explainers


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    """The seven explainers, with small limits."""
    with live(explainers(), max_effort=20_000, max_body=4 * 2**20, max_elements=2**20) as client:
        yield client


@pytest.fixture
def gate() -> Iterator[Gate]:
    model = Gate()
    yield model
    model.open.set()
