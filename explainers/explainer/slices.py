"""A call of all samples, cut to some of them: their targets, baselines and random draws are those of the whole call."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import random_numbers
from ..backend import owner
from ..errors import ExplainersError
from ..random_numbers import UInt64
from ..spec import Numpy, References, TensorSpec, is_mask, resolve_target
from .bind import samples_of, targets_of, to_numpy
from .explanation import on_host
from .request import Request

if TYPE_CHECKING:
    from .api import Explainer

Index = slice | Numpy


@dataclass(frozen=True)
class Whole:
    """The arguments of a call of ``total`` samples; None: of as many as a source yields, with none for each sample.

    details: whether results are explanations, not only attributions.
    """

    target: Any = None
    baseline: Any = None
    seed: Any = None
    total: int | None = None
    batch_size: int | None = None
    allow_nonfinite: bool = False
    details: bool = False

    def request(self, explain: Explainer, rows: Sequence[Any], index: Index, targets: Any = None) -> Request:
        """A request for the samples ``index``, whose inputs are ``rows``. It does not warn.

        ``targets``: of these samples, in the place of the call's.
        """
        output = explain.output.at(explain.signature.sizes(rows))
        count = rows[0].shape[0]
        request = explain.request(
            *rows,
            target=self._target(output, index, count) if targets is None else targets,
            baseline=self._baseline(explain, index),
            batch_size=self.batch_size,
            allow_nonfinite=self.allow_nonfinite,
        )
        request.call.details = self.details
        if explain.method.sampled:
            request.call.seeds = self._seeds(index, count)
        return dataclasses.replace(request, warns=False)

    def _seeds(self, index: Index, count: int) -> UInt64:
        if np.ndim(self.seed):
            if self.total is not None and len(self.seed) != self.total:
                random_numbers.sample_seeds(self.seed, self.total)  # says what is wrong
            return random_numbers.sample_seeds(np.asarray(self.seed)[index], count)
        if isinstance(index, slice):
            return random_numbers.seeds_at(self.seed, index.start, count)
        return np.concatenate([random_numbers.seeds_at(self.seed, int(i), 1) for i in index])

    def _target(self, output: TensorSpec, index: Index, count: int) -> Any:
        """A single mask is repeated for each sample.

        Raises
        ------
        TargetError: there are as many samples as outputs, so the mask could also be one index per sample.
        """
        target, shape, total = self.target, output.sample_shape, self.total
        if total is None:
            return target
        if is_mask(target, shape):
            resolve_target(target, shape, total)
            return np.broadcast_to(np.asarray(target), (count, *shape))
        return targets_of(target, index, total, shape)

    def _baseline(self, explain: Explainer, index: Index) -> Any:
        """A baseline with as many entries as samples is one for each sample."""
        baseline, total = self.baseline, self.total
        if total is None:
            return baseline
        axes = {spec.name: len(spec.sample_shape) for spec in explain.attributed}
        first = next(iter(axes.values()))
        if isinstance(baseline, References):
            return References(_cut(baseline.array, index), per_sample=True) if baseline.per_sample else baseline
        if isinstance(baseline, tuple):
            parts = zip(baseline, axes.values(), strict=True)
            return tuple(_one_each(explain, samples_of(part, index, total, n), n) for part, n in parts)
        if not isinstance(baseline, dict):
            return _one_each(explain, samples_of(baseline, index, total, first), first)
        by_name = {name: samples_of(part, index, total, axes.get(name)) for name, part in baseline.items()}
        sets = {name: _one_each(explain, part, axes.get(name, first)) for name, part in by_name.items()}
        if all(isinstance(part, References) for part in sets.values()):
            return References({name: part.array for name, part in sets.items()}, per_sample=True)
        return by_name


def _cut(array: Any, index: Index) -> Any:
    """The entries ``index`` of an array, or of each array of a tuple or dict."""
    if isinstance(array, dict):
        return {name: _cut(part, index) for name, part in array.items()}
    return (
        tuple(_cut(part, index) for part in array) if isinstance(array, tuple) else to_numpy(array, "baseline")[index]
    )


def in_memory(baseline: Any) -> Any:
    """A baseline, or each part of a tuple or dict of them, with the arrays of a framework as numpy."""
    if isinstance(baseline, dict):
        return {name: in_memory(part) for name, part in baseline.items()}
    if isinstance(baseline, tuple):
        return tuple(map(in_memory, baseline))
    return baseline if owner(baseline) is None else on_host(baseline)


def _one_each(explain: Explainer, baseline: Any, axes: int) -> Any:
    if explain.method.takes_sets and isinstance(baseline, np.ndarray) and baseline.ndim == axes + 1:
        return References(baseline[:, None], per_sample=True)
    return baseline


def of_block(error: ExplainersError, start: int, count: int, total: int | None) -> ExplainersError:
    """The same error with the numbers of the whole call's samples, and a note that names the block."""
    if count == total:
        return error
    of_all = "" if total is None else f" of {total}"
    text = re.sub(rf"sample (\d+) of {count}\b", lambda m: f"sample {start + int(m[1])}{of_all}", str(error))
    text = re.sub(r"at position (\d+)\b", lambda m: f"at position {start + int(m[1])}", text)
    block_error = type(error)(text)
    block_error.add_note(f"in the samples {start} to {start + count - 1}{of_all}")
    return block_error
