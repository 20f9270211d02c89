"""Checking compiled graphs against the graph: inductor of torch 2.13 gives wrong numbers for some fused loops.

Its vectorised loops are at fault (LRP of a small vision transformer, one row: relevance off by as much as its largest
entry), so the second try is compiled without them; where that is wrong too, the graph itself runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

Native = Callable[..., Sequence[torch.Tensor]]
WITHOUT_VECTORS: dict[str, Any] = {"cpp.simdlen": 1}
_log = logging.getLogger(__name__)


def compiled(
    make: Callable[[dict[str, Any]], Native], graph: Native, examples: Sequence[torch.Tensor], weights: int
) -> Native:
    """The result of ``make(options of inductor)`` if it computes the same as ``graph``; else the next best.

    ``examples``: arguments of the right shapes, the first ``weights`` of them the model's own.
    """
    arguments = probe(examples, weights)
    for options in ({}, WITHOUT_VECTORS):
        native = make(options)
        if agrees(native, graph, arguments, weights):
            return native
        _log.warning(
            "inductor of torch %s compiled this program wrongly%s; %s", torch.__version__,
            " even without vector instructions" if options else "",
            "it runs uncompiled" if options else "it is compiled again without vector instructions, which is slower",
        )  # fmt: skip
    return graph


def probe(examples: Sequence[torch.Tensor], weights: int) -> list[torch.Tensor]:
    """Random numbers in place of the arguments; zeros for integers, which may index tables."""
    generator = torch.Generator().manual_seed(0)

    def drawn(example: torch.Tensor) -> torch.Tensor:
        if not example.dtype.is_floating_point or not example.ndim:
            return example
        values = torch.empty_like(example, dtype=torch.float32, device="cpu").normal_(generator=generator)
        return values.to(dtype=example.dtype, device=example.device)

    return [*examples[:weights], *map(drawn, examples[weights:])]


@torch.no_grad()
def agrees(native: Native, graph: Native, arguments: Sequence[torch.Tensor], weights: int) -> bool:
    """Whether both give the same results, up to changes that rounding of the arguments may cause.

    Where the graph cannot run on the arguments (numbers that it turns into places of a table), zeros are tried; where
    it cannot run on those either, nothing can be said against ``native``.
    """
    zeros = [*arguments[:weights], *map(torch.zeros_like, arguments[weights:])]
    for given in (arguments, zeros):
        try:
            expected, nudged = graph(*given), graph(*_nudged(given, weights))
        except Exception:  # of any kind that an operation raises
            continue
        return all(map(_alike, native(*given), expected, nudged))
    return True


def _nudged(arguments: Sequence[torch.Tensor], weights: int) -> list[torch.Tensor]:
    given = arguments[weights:]
    moved = [array * (1 + 2**-18) if array.dtype.is_floating_point and array.ndim else array for array in given]
    return [*arguments[:weights], *moved]


def _alike(got: torch.Tensor, expected: torch.Tensor, nudged: torch.Tensor) -> bool:
    if not expected.dtype.is_floating_point or not expected.numel():
        return True
    known = torch.isfinite(expected) & torch.isfinite(nudged)
    got, expected, nudged = (array.double()[known] for array in (got, expected, nudged))
    if not expected.numel():
        return True
    allowed = 1e-2 * expected.abs().max() + 20 * (nudged - expected).abs().max()
    return bool(((got - expected).abs() <= allowed).all())
