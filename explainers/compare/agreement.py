"""How far two candidates agree: differences, ranks, the largest entries, directions; for each sample."""

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

FLOOR = 1e-3  # of the largest entry of all samples: below it a sample's own scale is rounding
MEASURES = ("absolute", "relative", "spearman", "overlap", "cosine")
CLOSE = 1e-2  # relative difference that is still shown as near
ROUNDING = 1e-5  # of a sample's scale: what float32 makes of equals; entries that are no farther apart are ties


@dataclass(frozen=True)
class Pair:
    """Two candidates. Of each measure the worst sample's, and the median over samples.

    absolute: largest |a − b|. relative: that over the sample's largest entry (of samples below a thousandth of
    the largest of all, over that). spearman: correlation of ranks; entries that differ by rounding are ties.
    overlap: how many of the k entries that are largest in size are the same, as a share. cosine: of the angle
    between them. sample: where ``relative`` is worst.
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
    """All pairs of candidates, those of the same method first; each cell is the worst sample's."""

    columns = tuple(Pair.__dataclass_fields__)
    shown = ("left", "right", "method", *MEASURES, "")
    tolerance = 1e-4

    def cells(self, medians: bool = False) -> list[tuple[str, ...]]:
        """With ``medians`` over samples in brackets."""
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
    """Every pair, those of the same method first, after a check that they explain the same."""
    first = outcomes[0]
    for other in outcomes[1:]:
        names = f"{first.measured.name!r} and {other.measured.name!r}"
        if other.outputs != first.outputs:
            raise InputError(
                f"{names} explain outputs of different shapes, {first.outputs} and {other.outputs}: pick with output="
            )
        shapes = [[part.shape for part in some.attributions] for some in (first, other)]
        if shapes[0] != shapes[1]:
            raise InputError(f"{names} attribute to values of different shapes, {shapes[0]} and {shapes[1]}")
    found = [_pair(a, b, top) for a, b in combinations(outcomes, 2)]
    return sorted(found, key=lambda pair: not pair.same_method)


def _pair(left: Outcome, right: Outcome, top: int | None) -> Pair:
    a, b = _flat(left), _flat(right)
    absolute = np.abs(a - b).max(1, initial=0)
    scales = _scales(a), _scales(b)
    relative = absolute / np.maximum(*scales)
    k = top or max(1, a.shape[1] // 10)
    if k > a.shape[1]:
        raise InputError(f"top={top} entries are more than the {a.shape[1]} that are attributed")
    apart = np.stack([ROUNDING * scale for scale in scales], axis=1)
    a, b = rounded(a, b, apart.min(1, keepdims=True))
    measures = [
        absolute, relative, _each(spearman, a, b, apart), _each(partial(overlap, k=k), a, b, apart), _each(cosine, a, b)
    ]  # fmt: skip
    worst = [float(f(m)) for f, m in zip((np.max, np.max, np.min, np.min, np.min), measures, strict=True)]
    medians = [float(np.median(m)) for m in measures]
    same = left.same_method(right)
    numbers = dict(zip((*MEASURES, *(f"{name}_median" for name in MEASURES)), [*worst, *medians], strict=True))
    return Pair(left.measured.name, right.measured.name, same, sample=int(relative.argmax()), **numbers)


def _scales(array: Numpy) -> Numpy:
    """Of each sample: its largest entry; where that is rounding beside all samples', a thousandth of theirs."""
    size = np.abs(array).max(1, initial=0)
    found: Numpy = np.maximum(size, max(FLOOR * size.max(), np.finfo(np.float64).tiny))
    return found


def _flat(found: Outcome) -> Numpy:
    """All attributed values of a sample in a row, (N, entries)."""
    return np.concatenate([part.reshape(len(part), -1).astype(np.float64) for part in found.attributions], axis=1)


def _each(measure: Callable[..., float], *values: Numpy) -> Numpy:
    return np.array([measure(*one) for one in zip(*values, strict=True)])


def rounded(a: Numpy, b: Numpy, apart: Numpy) -> tuple[Numpy, Numpy]:
    """Both with the mean of the two where they are at most ``apart``: neither order of such entries is wrong."""
    close = np.abs(a - b) <= apart
    return np.where(close, (a + b) / 2, a), np.where(close, (a + b) / 2, b)


def levels(x: Numpy, apart: float) -> Numpy:
    """The number of each entry's level from below: an entry more than ``apart`` above its level's lowest begins one."""
    order = np.argsort(x, kind="stable")
    ascending = x[order]
    begins = np.diff(ascending, prepend=-np.inf) > apart  # and some more, in runs of entries that are all near
    starts = np.flatnonzero(begins)
    for start, end in zip(starts, [*starts[1:], len(x)], strict=False):
        while ascending[end - 1] - ascending[start] > apart:
            start += int(np.searchsorted(ascending[start:end], ascending[start] + apart, side="right"))
            begins[start] = True
    found = np.empty(len(x), np.int64)
    found[order] = begins.cumsum()
    return found


def spearman(x: Numpy, y: Numpy, apart: Sequence[float] = (0.0, 0.0)) -> float:
    """Pearson's correlation of the ranks, ties at their mean; 1 for equals, 0 where one has a single rank.

    ``apart``: entries of x, and of y, that differ by at most this are ties.
    """
    first, second = levels(x, apart[0]), levels(y, apart[1])
    return 1.0 if np.array_equal(first, second) else cosine(*(r - r.mean() for r in (_ranks(first), _ranks(second))))


def _ranks(x: Numpy) -> Numpy:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: Numpy = (last - (counts - 1) / 2)[place]
    return ranks


def overlap(x: Numpy, y: Numpy, apart: Sequence[float] = (0.0, 0.0), *, k: int) -> float:
    """The share of the k entries of largest size that both have; ties, as of :func:`spearman`, by position."""
    sizes = (levels(np.abs(v), near) for v, near in zip((x, y), apart, strict=True))
    first, second = (set(np.argsort(-size, kind="stable")[:k].tolist()) for size in sizes)
    return len(first & second) / k


def cosine(x: Numpy, y: Numpy) -> float:
    """Of the angle; 1 for equals, 0 where one is all zeros."""
    if np.array_equal(x, y):
        return 1.0
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.clip(x @ y / length, -1, 1)) if length else 0.0
