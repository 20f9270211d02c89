"""Explanations of a source of samples, block by block: one is read and the last one is used while one is explained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import sources
from ..errors import ExplainersError, IncompleteWarning, InputError
from ..run.call import reporter
from ..sources import Block, Label
from .bind import plain
from .slices import Whole, in_memory, of_block

if TYPE_CHECKING:
    from .api import Explainer

Progress = bool | Callable[[int, int], None]
LEAST = 1024  # samples of a block of small ones, at least


@dataclass
class Part:
    """The results of the samples start … stop−1: attributions as a call returns them, or an Explanation."""

    start: int
    stop: int
    result: Any


@dataclass
class Stream:
    """What to explain, and how. ``label``: the part of a batch that holds the targets, or a function of the batch."""

    explain: Explainer
    source: Any
    whole: Whole
    label: Label
    size: int
    inputs: Sequence[str | int] | None = None
    ahead: int = sources.AHEAD
    progress: Progress = False
    first: int = 0
    warns: bool = True

    @classmethod
    def of(
        cls, explain: Explainer, source: Any, *, target: Any = None, baseline: Any = None, seed: Any = None,
        block: int | None = None, inputs: Sequence[str | int] | str | int | None = None, ahead: int = sources.AHEAD,
        details: bool = False, progress: Progress = False, batch_size: int | None = None, allow_nonfinite: bool = False,
        warns: bool = True,
    ) -> Stream:  # fmt: skip
        if block is not None and (isinstance(block, bool) or not isinstance(block, int) or block < 1):
            raise InputError(f"block must be a number of samples ≥ 1; got {block!r}")
        if isinstance(ahead, bool) or not isinstance(ahead, int) or ahead < 0:
            raise InputError(f"ahead must be a number of blocks ≥ 0; got {ahead!r}")
        label = target if callable(target) or (isinstance(target, str) and target not in ("max", "all")) else None
        known = sources.sized(source)
        total = None if known is None else len(known)
        target = None if label is not None else plain(target)
        if isinstance(target, list) and len(target) == total:
            target = np.asarray(target)  # once, not for each block
        whole = Whole(target, in_memory(baseline), seed, total, batch_size, allow_nonfinite, details)
        picked = [inputs] if isinstance(inputs, (str, int)) else inputs
        size = block or max(explain.stats.batch_size, LEAST)
        return cls(
            explain, source if known is None else known, whole, label, size, picked, ahead, progress, warns=warns
        )

    def parts(self) -> Generator[Part, None, None]:
        """The results of each block, in order. Warns once, at the end, of samples that do not add up."""
        explain = self.explain
        lost, total = explain.stats.incomplete, self.whole.total
        left = None if total is None else total - self.first
        report = reporter(self.progress, left, "sample") if self.progress else None
        made = self._computed()
        with closing(sources.read_ahead(made, 1) if self.ahead else made) as found:
            for part in found:
                yield part
                if report is not None:
                    report(part.stop - part.start)
                del part
        missing = explain.stats.incomplete - lost
        if missing and self.warns:
            warnings.warn(incomplete(missing), IncompleteWarning, stacklevel=3)

    def _computed(self) -> Generator[Part, None, None]:
        read = sources.blocks(
            self.source, self.size, self.explain.signature, inputs=self.inputs, target=self.label, first=self.first,
            ahead=self.ahead,
        )  # fmt: skip
        with closing(read) as found:
            for block in found:
                yield self._explained(block)
                del block

    def _explained(self, block: Block) -> Part:
        start, stop = block.start, block.start + len(block)
        try:
            with self.explain._backend.neutral():
                request = self.whole.request(self.explain, block.inputs, slice(start, stop), block.target)
                chunks = request.packages.run(request.call)
                made = request.explanation if self.whole.details else request.attributions
                return Part(start, stop, made(chunks))
        except ExplainersError as error:
            raise of_block(error, start, stop - start, self.whole.total) from error


def incomplete(count: int) -> str:
    return (
        f"the attributions of {count} samples do not add up to the change of the output. explain.audit names the "
        "operations that lose the rest."
    )
