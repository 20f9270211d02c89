"""What a compiler makes of a program is held against the program before it is used."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from explainers import Explainer
from explainers_torch import verify

WEIGHT = torch.tensor([2.0, -1.0, 0.5])


def graph(weight: torch.Tensor, x: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (x * weight, x[place].sum(), place)


EXAMPLES = [WEIGHT, torch.zeros(4, 3), torch.zeros(2, dtype=torch.int64)]


def wrong(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
    first, *others = graph(*arguments)
    return (first * torch.tensor([1.0, 1.0, 1.05]), *others)


def test_the_first_that_computes_the_same_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[dict[str, Any]] = []

    def make(natives: list[Any]) -> Any:
        def compiled(options: dict[str, Any]) -> Any:
            asked.append(options)
            return natives[len(asked) - 1]

        return compiled

    right = lambda *arguments: graph(*arguments)  # noqa: E731
    with caplog.at_level(logging.WARNING):
        assert verify.compiled(make([right]), graph, EXAMPLES, 1) is right
    assert (asked, caplog.text) == ([{}], "")
    asked.clear()
    assert verify.compiled(make([wrong, right]), graph, EXAMPLES, 1) is right
    assert asked == [{}, verify.WITHOUT_VECTORS]
    assert "without vector instructions" in caplog.text
    asked.clear()
    assert verify.compiled(make([wrong, wrong]), graph, EXAMPLES, 1) is graph
    assert "runs uncompiled" in caplog.text


def test_rounding_of_a_steep_function_is_no_fault() -> None:
    steep = lambda x: (torch.sin(x * 1e7),)  # noqa: E731
    other = lambda x: (torch.sin((x * 1e3) * 1e4),)  # noqa: E731
    assert verify.agrees(other, steep, verify.probe([torch.zeros(50)], 0), 0)
    assert not verify.agrees(lambda x: (x + 0.1,), lambda x: (x,), verify.probe([torch.zeros(50)], 0), 0)


def test_what_is_not_finite_is_left_out() -> None:
    log = lambda x: (torch.log(x),)  # noqa: E731
    assert verify.agrees(log, log, verify.probe([torch.zeros(50)], 0), 0)


@pytest.mark.slow
def test_a_program_that_inductor_gets_wrong() -> None:
    """LRP of a small vision transformer, one row: vectorised loops of torch 2.13 are off by the largest entry."""
    from tests.contract import zoo

    x = zoo.data("torch-vit").held_out[:1]
    model = zoo.network("torch-vit", "float32", 1)
    right = Explainer.compile(model, "lrp", inputs=x, engine="eager")(x, target=1)
    found = Explainer.compile(model, "lrp", inputs=x, engine="inductor")(x, target=1)
    np.testing.assert_allclose(found, right, atol=1e-4 * abs(right).max())


def test_random_numbers_that_the_program_cannot_take() -> None:
    """Numbers that become places in a table: zeros are tried in their place, and tell the wrong from the right."""
    table = torch.arange(3.0) + 1
    pick = lambda x: (table[x.long() * 1000],)  # noqa: E731
    arguments = verify.probe([torch.zeros(5)], 0)
    assert verify.agrees(pick, pick, arguments, 0)
    assert not verify.agrees(lambda x: (pick(x)[0] + 1,), pick, arguments, 0)
    never = lambda x: (table[(x + 1).long() * 1000],)  # noqa: E731
    assert verify.agrees(never, never, arguments, 0)
