"""Which elements of a sample form one feature: the same for all samples, or a map for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import InputError
from .base import Numpy, Shapes

DENSE = 4  # ids up to this many times the elements are numbered without sorting


class Groups:
    """Features that are the same in all samples. ``maps``: feature numbers 0…G−1 of a sample's elements, one for each
    attributed value, of its shape."""

    def __init__(self, groups: Any, shapes: Shapes) -> None:
        self.maps = feature_maps(groups, shapes)

    @cached_property
    def count(self) -> int:
        """G, the number of features."""
        return 1 + max((int(m.max(initial=-1)) for m in self.maps), default=-1)

    def spread(self, features: Numpy) -> list[Numpy]:
        """Spread one number per feature, (N, G, …), over the feature's elements: (…, N, \\*shape) for each map."""
        return spread(features, self.maps)

    def elements(self, kept: Numpy, sample: Numpy) -> list[Numpy]:
        r"""Which elements rows keep, (R, \*shape) for each map, of rows that keep the features ``kept``, (R, G).

        ``sample``: each row's sample.
        """
        return [kept[:, m] for m in self.maps]

    def bits(self, kept: Numpy, sample: Numpy) -> Numpy:
        """The argument of the kernel that says which features a row keeps, as bits, (R, ⌈G/8⌉)."""
        return packed(kept)

    def totals(self, attributions: Sequence[Numpy]) -> Numpy:
        """Σ over the features of each sample, (…, N), each counted once, of arrays (…, N, \\*shape)."""
        pairs = zip(attributions, self.maps, strict=True)
        flat = np.concatenate([a.reshape(*a.shape[: a.ndim - m.ndim], m.size) for a, m in pairs], axis=-1)
        found: Numpy = flat[..., self._first_elements].sum(axis=-1, dtype=np.float64)
        return found

    @cached_property
    def _first_elements(self) -> Numpy:
        """One element of each feature."""
        return np.unique(np.concatenate([m.ravel() for m in self.maps]), return_index=True)[1]


@dataclass(frozen=True)
class SampleGroups:
    """Features that differ from sample to sample.

    maps: feature numbers (N, …), one array for each attributed value; its axes are those of a sample, or 1 where the
    map is the same along an axis. shapes: of the samples. counts: (N,), the number of features of each sample.
    """

    maps: tuple[Numpy, ...]
    shapes: tuple[tuple[int, ...], ...]
    counts: Numpy

    @classmethod
    def of(cls, ids: Sequence[Numpy], shapes: Shapes) -> SampleGroups:
        """From arrays of ids, (N, …), which need not be contiguous and may be shared by the inputs of one sample."""
        flat = [_flat(part).astype(np.int64) for part in ids]
        joined = np.concatenate(flat, axis=1)
        numbers = _numbered(joined)
        counts = numbers.max(axis=1, initial=-1) + 1
        numbers = numbers.astype(np.min_scalar_type(int(counts.max(initial=1))))
        parts = np.split(numbers, np.cumsum([part.shape[1] for part in flat])[:-1], axis=1)
        return cls(
            tuple(part.reshape(given.shape) for part, given in zip(parts, ids, strict=True)), tuple(shapes), counts
        )

    def part(self, start: int, stop: int) -> SampleGroups:
        """Those of the samples start … stop−1."""
        return SampleGroups(tuple(m[start:stop] for m in self.maps), self.shapes, self.counts[start:stop])

    def alike(self, start: int, stop: int) -> int:
        """The first sample after ``start`` with another number of features, at most ``stop``."""
        others = np.flatnonzero(self.counts[start:stop] != self.counts[start])
        return start + int(others[0]) if len(others) else stop

    @property
    def count(self) -> int:
        """G, for samples with equally many features."""
        return int(self.counts[0])

    def spread(self, features: Numpy) -> list[Numpy]:
        """As :meth:`Groups.spread`."""
        results = []
        for m, shape in zip(self.maps, self.shapes, strict=True):
            index = _flat(m).astype(np.int64)
            values = features[np.arange(len(m))[:, None], index]  # (N, elements of the map, …)
            values = np.moveaxis(values, (0, 1), (-2, -1))
            lead = values.shape[:-1]
            results.append(np.array(np.broadcast_to(values.reshape(*lead, *m.shape[1:]), (*lead, *shape))))
        return results

    def elements(self, kept: Numpy, sample: Numpy) -> list[Numpy]:
        """As :meth:`Groups.elements`."""
        parts = []
        for m, shape in zip(self.maps, self.shapes, strict=True):
            part = np.take_along_axis(kept, _flat(m[sample]), axis=1).reshape(len(sample), *m.shape[1:])
            parts.append(np.array(np.broadcast_to(part, (len(sample), *shape))))
        return parts

    def bits(self, kept: Numpy, sample: Numpy) -> Numpy:
        """Which *elements* a row keeps, as bits, (R, ⌈elements/8⌉): a kernel for it serves samples with any groups."""
        parts = [_flat(part) for part in self.elements(kept, sample)]
        return packed(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))

    def totals(self, attributions: Sequence[Numpy]) -> Numpy:
        """As :meth:`Groups.totals`."""
        total: Any = 0.0
        sizes = self._sizes()
        for a, size, shape in zip(attributions, sizes, self.shapes, strict=True):
            total = total + (a / size).sum(axis=tuple(range(-len(shape), 0)), dtype=np.float64)
        return np.asarray(total)

    def _sizes(self) -> list[Numpy]:
        """For each element, how many elements its feature has, (N, …) as ``maps``."""
        count = np.zeros((len(self.counts), int(self.counts.max(initial=1))))
        flats = [_flat(m).astype(np.int64) for m in self.maps]
        for m, flat, shape in zip(self.maps, flats, self.shapes, strict=True):
            repeats = int(np.prod(shape)) // max(flat.shape[1], 1)
            np.add.at(count, (np.arange(len(m))[:, None], flat), repeats)
        return [np.take_along_axis(count, flat, 1).reshape(m.shape) for m, flat in zip(self.maps, flats, strict=True)]


def _numbered(ids: Numpy) -> Numpy:
    """Ids (N, E) as numbers 0 … G−1 of each row, in ascending order of the ids."""
    largest = int(ids.max(initial=0))
    if ids.size and ids.min() >= 0 and largest < DENSE * ids.shape[1]:
        present = np.zeros((len(ids), largest + 1), bool)
        np.put_along_axis(present, ids, True, axis=1)
        return np.take_along_axis(np.cumsum(present, axis=1, dtype=np.int64) - 1, ids, axis=1)
    order = ids.argsort(axis=1, kind="stable")
    ascending = np.take_along_axis(ids, order, axis=1)
    number = np.cumsum(np.diff(ascending, axis=1, prepend=ascending[:, :1]) != 0, axis=1)
    numbers = np.empty_like(ids)
    np.put_along_axis(numbers, order, number, axis=1)
    return numbers


def _flat(array: Numpy) -> Numpy:
    """(N, elements)"""
    return array.reshape(len(array), int(np.prod(array.shape[1:])))


def feature_maps(groups: Any, shapes: Shapes) -> list[Numpy]:
    """One map of feature numbers 0…G−1 per input, each of the sample's shape."""
    if groups is None:
        sizes = [int(np.prod(shape)) for shape in shapes]
        starts = np.cumsum([0, *sizes[:-1]])
        return [np.arange(start, start + n).reshape(s) for start, n, s in zip(starts, sizes, shapes, strict=True)]
    given = groups if isinstance(groups, tuple) else (groups,)
    if len(given) != len(shapes):
        raise InputError(f"{len(given)} group maps for {len(shapes)} attributed inputs: give a tuple, one for each")
    maps = []
    for group, shape in zip(map(_group_map, given), shapes, strict=True):
        whole_numbers(group)
        try:
            maps.append(np.broadcast_to(group, shape))
        except ValueError:
            raise InputError(f"groups of shape {group.shape} do not broadcast to a sample of shape {shape}") from None
    flat = np.concatenate([m.ravel().astype(np.int64) for m in maps])
    numbers = np.unique(flat, return_inverse=True)[1]
    splits = np.split(numbers, np.cumsum([m.size for m in maps])[:-1])
    return [part.reshape(shape) for part, shape in zip(splits, shapes, strict=True)]


def whole_numbers(group: Numpy) -> None:
    """Raise InputError for feature ids that are no integers."""
    if group.dtype.kind not in "iu":
        raise InputError(f"groups must hold integer feature ids; got dtype {group.dtype}")


def _group_map(given: Any) -> Numpy:
    try:
        return np.asarray(given)
    except ValueError:
        raise InputError(
            f"groups={given!r} is ragged. Give one feature id for each element of a sample: [0, 1, 1, 2, 2] in place "
            "of [[0], [1, 2], [3, 4]]"
        ) from None


def spread(features: Numpy, maps: Sequence[Numpy]) -> list[Numpy]:
    """Spread one number per feature, (N, G, …), over the feature's elements: (…, N, \\*shape) for each map."""
    lead = features if features.ndim == 2 else np.moveaxis(features, (0, 1), (-2, -1))
    return [lead[..., m] for m in maps]


def packed(kept: Numpy) -> Numpy:
    """Booleans (R, G) as bits, (R, ⌈G/8⌉); rows of whole bytes are packed in one call."""
    whole = np.zeros((len(kept), -(-kept.shape[1] // 8), 8), bool)
    whole.reshape(len(kept), -1)[:, : kept.shape[1]] = kept
    return np.packbits(whole).reshape(whole.shape[:2])
