"""How far two candidates agree: differences, ranks, the largest entries, directions; for each sample."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..coverage import Table
from ..errors import InputError
from ..spec import Numpy
from .measuring import Outcome

FLOOR = 1e-3  # of the largest entry of all samples: below it a sample's own scale is rounding
MEASURES = ("absolute", "relative", "spearman", "overlap", "cosine")
CLOSE = 1e-2  # relative difference that is still shown as near


@dataclass(frozen=True)
class Pair:
    """Two candidates. Of each measure the worst sample's, and the median over samples.

    absolute: largest |a − b|. relative: that over the sample's largest entry (of samples below a thousandth of
    the largest of all, over that). spearman: correlation of ranks. overlap: how many of the k entries that are
    largest in size are the same, as a share. cosine: of the angle between them. sample: where ``relative`` is worst.
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
    size = np.maximum(np.abs(a).max(1, initial=0), np.abs(b).max(1, initial=0))
    absolute = np.abs(a - b).max(1, initial=0)
    relative = absolute / np.maximum(size, max(FLOOR * size.max(), np.finfo(np.float64).tiny))
    k = top or max(1, a.shape[1] // 10)
    if k > a.shape[1]:
        raise InputError(f"top={top} entries are more than the {a.shape[1]} that are attributed")
    measures = [absolute, relative, *(_each(f, a, b) for f in (spearman, lambda x, y: overlap(x, y, k), cosine))]
    worst = [float(f(m)) for f, m in zip((np.max, np.max, np.min, np.min, np.min), measures, strict=True)]
    medians = [float(np.median(m)) for m in measures]
    same = left.same_method(right)
    numbers = dict(zip((*MEASURES, *(f"{name}_median" for name in MEASURES)), [*worst, *medians], strict=True))
    return Pair(left.measured.name, right.measured.name, same, sample=int(relative.argmax()), **numbers)


def _flat(found: Outcome) -> Numpy:
    """All attributed values of a sample in a row, (N, entries)."""
    return np.concatenate([part.reshape(len(part), -1).astype(np.float64) for part in found.attributions], axis=1)


def _each(measure: object, a: Numpy, b: Numpy) -> Numpy:
    assert callable(measure)
    return np.array([measure(x, y) for x, y in zip(a, b, strict=True)])


def spearman(x: Numpy, y: Numpy) -> float:
    """Pearson's correlation of the ranks, ties at their mean; 1 for equals, 0 where one has a single rank."""
    return 1.0 if np.array_equal(x, y) else cosine(*(r - r.mean() for r in (_ranks(x), _ranks(y))))


def _ranks(x: Numpy) -> Numpy:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: Numpy = (last - (counts - 1) / 2)[place]
    return ranks


def overlap(x: Numpy, y: Numpy, k: int) -> float:
    """The share of the k entries of largest size that both have; ties by position."""
    first, second = (set(np.argsort(-np.abs(v), kind="stable")[:k].tolist()) for v in (x, y))
    return len(first & second) / k


def cosine(x: Numpy, y: Numpy) -> float:
    """Of the angle; 1 for equals, 0 where one is all zeros."""
    if np.array_equal(x, y):
        return 1.0
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.clip(x @ y / length, -1, 1)) if length else 0.0
