"""How far two candidates agree on each sample: differences, rank correlation, overlap of the largest, cosine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from ..errors import InputError
from ..graph.coverage import Table
from ..spec import Numpy
from .measuring import Outcome

FLOOR = 1e-3  # smallest scale of a sample, relative to the largest entry of all samples: below it is rounding noise
MEASURES = ("absolute", "relative", "spearman", "overlap", "cosine")
CLOSE = 1e-2  # largest relative difference that counts as near
ROUNDING = 1e-5  # float32 rounding error relative to a sample's scale: entries that differ by less are ties


@dataclass(frozen=True)
class Pair:
    """How far two candidates agree. Each measure has the value of the worst sample and the median over samples.

    absolute: largest |a − b|. relative: ``absolute`` divided by the sample's largest |entry|, or by a thousandth of
    the largest |entry| of all samples if that is larger. spearman: rank correlation; entries that differ by
    rounding are ties. overlap: fraction of the k largest |entries| that both have. cosine: cosine similarity.
    sample: the sample with the worst ``relative``.
    """

    left: str
    right: str
    same_method: bool
    absolute: float
    relative: float
    spearman: float
    overlap: float
    cosine: float
    absolute_median: float
    relative_median: float
    spearman_median: float
    overlap_median: float
    cosine_median: float
    sample: int

    def verdict(self, tolerance: float) -> str:
        """``agrees``, ``near`` or ``differs``."""
        if self.relative <= tolerance:
            return "agrees"
        return "near" if self.relative <= max(CLOSE, tolerance) else "differs"


class Pairs(Table[Pair]):
    """All pairs of candidates, pairs of the same method first; each cell shows the worst sample."""

    columns = tuple(Pair.__dataclass_fields__)
    shown = ("left", "right", "method", *MEASURES, "")
    tolerance = 1e-4

    def cells(self, medians: bool = False) -> list[tuple[str, ...]]:
        """The cells as text; ``medians`` adds the median over samples in brackets."""
        return [
            (
                pair.left, pair.right, "same" if pair.same_method else "another",
                *(_number(pair, name) + (f" ({_number(pair, f'{name}_median')})" if medians else "")
                  for name in MEASURES),
                pair.verdict(self.tolerance),
            )
            for pair in self
        ]  # fmt: skip

    def style(self, row: Pair) -> str | None:
        return {"agrees": "green", "near": "yellow", "differs": "red"}[row.verdict(self.tolerance)]


def _number(pair: Pair, name: str) -> str:
    return f"{getattr(pair, name):.3g}"


def pairs(outcomes: list[Outcome], top: int | None) -> list[Pair]:
    """All pairs of outcomes, pairs of the same method first.

    Raises
    ------
    InputError: the shapes of the outputs or of the attributions differ.
    """
    first = outcomes[0]
    for second in outcomes[1:]:
        names = f"{first.measurement.name!r} and {second.measurement.name!r}"
        if second.outputs != first.outputs:
            raise InputError(
                f"{names} explain outputs of different shapes, {first.outputs} and {second.outputs}: pick with output="
            )
        shapes = [[part.shape for part in one_outcome.attributions] for one_outcome in (first, second)]
        if shapes[0] != shapes[1]:
            raise InputError(f"{names} attribute to values of different shapes, {shapes[0]} and {shapes[1]}")
    all_pairs = [_pair(a, b, top) for a, b in combinations(outcomes, 2)]
    return sorted(all_pairs, key=lambda pair: not pair.same_method)


def _pair(left: Outcome, right: Outcome, top: int | None) -> Pair:
    a, b = _flat(left), _flat(right)
    absolute = np.abs(a - b).max(1, initial=0)
    scales = _scales(a), _scales(b)
    relative = absolute / np.maximum(*scales)
    k = top or max(1, a.shape[1] // 10)
    if k > a.shape[1]:
        raise InputError(f"top={top} entries are more than the {a.shape[1]} that are attributed")
    tie_widths = np.stack([ROUNDING * scale for scale in scales], axis=1)
    a, b = merge_ties(a, b, tie_widths.min(1, keepdims=True))
    measures = [
        absolute, relative, _each(spearman, a, b, tie_widths),
        _each(partial(overlap, k=k), a, b, tie_widths), _each(cosine, a, b),
    ]  # fmt: skip
    worst_values = [float(f(m)) for f, m in zip((np.max, np.max, np.min, np.min, np.min), measures, strict=True)]
    medians = [float(np.median(m)) for m in measures]
    same_method = left.same_method(right)
    numbers = dict(zip((*MEASURES, *(f"{name}_median" for name in MEASURES)), [*worst_values, *medians], strict=True))
    return Pair(left.measurement.name, right.measurement.name, same_method, sample=int(relative.argmax()), **numbers)


def _scales(array: Numpy) -> Numpy:
    """The scale of each sample: its largest |entry|, or a thousandth of all samples' largest if that is larger."""
    size = np.abs(array).max(1, initial=0)
    scales: Numpy = np.maximum(size, max(FLOOR * size.max(), np.finfo(np.float64).tiny))
    return scales


def _flat(outcome: Outcome) -> Numpy:
    """The attributions to all values, flattened and concatenated for each sample, (N, entries)."""
    return np.concatenate([part.reshape(len(part), -1).astype(np.float64) for part in outcome.attributions], axis=1)


def _each(measure: Callable[..., float], *values: Numpy) -> Numpy:
    return np.array([measure(*samples) for samples in zip(*values, strict=True)])


def merge_ties(a: Numpy, b: Numpy, tie_width: Numpy) -> tuple[Numpy, Numpy]:
    """Both arrays, with entries that differ by at most ``tie_width`` replaced by their mean."""
    is_tie = np.abs(a - b) <= tie_width
    return np.where(is_tie, (a + b) / 2, a), np.where(is_tie, (a + b) / 2, b)


def levels(x: Numpy, tie_width: float) -> Numpy:
    """Each entry's level, counted from the smallest: a level's entries lie within ``tie_width`` of its lowest."""
    order = np.argsort(x, kind="stable")
    ascending = x[order]
    begins = np.diff(ascending, prepend=-np.inf) > tie_width  # long runs of close entries are split below
    starts = np.flatnonzero(begins)
    for start, end in zip(starts, [*starts[1:], len(x)], strict=False):
        while ascending[end - 1] - ascending[start] > tie_width:
            start += int(np.searchsorted(ascending[start:end], ascending[start] + tie_width, side="right"))
            begins[start] = True
    level_numbers = np.empty(len(x), np.int64)
    level_numbers[order] = begins.cumsum()
    return level_numbers


def spearman(x: Numpy, y: Numpy, tie_widths: Sequence[float] = (0.0, 0.0)) -> float:
    """Pearson correlation of the ranks, with ties at their mean rank; 1 if the ranks are equal, 0 if one has one rank.

    ``tie_widths``: differences up to which entries of x, and of y, are ties.
    """
    left, right = levels(x, tie_widths[0]), levels(y, tie_widths[1])
    return 1.0 if np.array_equal(left, right) else cosine(*(r - r.mean() for r in (_ranks(left), _ranks(right))))


def _ranks(x: Numpy) -> Numpy:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: Numpy = (last - (counts - 1) / 2)[place]
    return ranks


def overlap(x: Numpy, y: Numpy, tie_widths: Sequence[float] = (0.0, 0.0), *, k: int) -> float:
    """The fraction of the k largest |entries| that both have; ties, as in :func:`spearman`, are taken by position."""
    sizes = (levels(np.abs(v), tie_width) for v, tie_width in zip((x, y), tie_widths, strict=True))
    left, right = (set(np.argsort(-size, kind="stable")[:k].tolist()) for size in sizes)
    return len(left & right) / k


def cosine(x: Numpy, y: Numpy) -> float:
    """Cosine similarity; 1 if both are equal, 0 if only one is all zeros."""
    if np.array_equal(x, y):
        return 1.0
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.clip(x @ y / length, -1, 1)) if length else 0.0
