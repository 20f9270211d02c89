"""Methods that remove a few features at a time and measure the change of the output; they only call the model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from ..genomics import check_one_hot, letters_axis
from ..lengths import varies
from ..ops import Ops
from .base import Array, Numpy, Shapes, one_of
from .groups import Groups
from .removal import Change, Coalitions, Design, Grouped, Placeholders, Removal, Sums, Units

__all__ = ["ISM", "FeatureAblation", "Occlusion"]


class Effects(Design):
    """One effect s(x) − s(row) for each row."""

    def start(self, count: int, outputs: tuple[int, ...]) -> list[Numpy]:
        return [np.zeros((count, self.units, *outputs))]

    def add(self, sums: Sums, units: Units, values: Numpy) -> None:
        sums.sums[0][units.sample, units.number] = sums.x[units.sample] - values[:, 0]


# --- feature ablation ------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureAblation(Grouped):
    """s(x) − s(x with one feature at its baseline), at each element of the feature, undivided.

    With ``References``: s of the ablated sample is the mean over the references.

    Parameters
    ----------
    groups: an integer map of which elements form one feature, broadcastable to the sample's shape;
        for several inputs a tuple of maps, whose ids may be shared between inputs. Ids need not be
        contiguous. ``None``: each element by itself.
    """

    groups: Any = field(default=None, compare=False)

    name: ClassVar[str] = "feature_ablation"

    @property
    def of_elements(self) -> Grouped:
        return _AblationOfElements()

    def design(self, shapes: Shapes) -> Design:
        return (_Removals if any(map(varies, shapes)) else Ablation)(shapes, self.groups)


class _AblationOfElements(FeatureAblation, data=False):
    """Feature ablation by a kernel that is told for each element whether a row keeps it."""

    @property
    def of_elements(self) -> Grouped:
        return self

    def design(self, shapes: Shapes) -> Design:
        return _Removals(shapes, self.groups)


class _Removals(Coalitions, Effects):
    """Row k keeps all features but the k-th."""

    endpoints = 1

    def __init__(self, shapes: Shapes, groups: Any) -> None:
        super().__init__(shapes, groups)
        self.units = self.features

    def kept(self, units: Units, row: Numpy) -> Numpy:
        kept: Numpy = np.arange(self.features) != units.number[row][:, None]
        return kept

    def add(self, sums: Sums, units: Units, values: Numpy) -> None:
        Effects.add(self, sums, units, values)

    def finish(self, sums: Sums, units: Numpy, inputs: Sequence[Numpy]) -> tuple[list[Numpy], list[Numpy] | None]:
        return self.groups.spread(sums.sums[0]), None


class Ablation(Effects):
    """A row for each feature, which is taken from the baseline."""

    def __init__(self, shapes: Shapes, groups: Any) -> None:
        super().__init__(shapes)
        self.groups = Groups(groups, shapes)
        self.units = self.groups.count

    def placeholders(self) -> Placeholders:
        maps: Placeholders = {f"groups_{i}": ("", m.shape, "int64") for i, m in enumerate(self.groups.maps)}
        return {"feature": ("rows", (), "int64"), **maps}

    def constants(self) -> dict[str, Numpy]:
        return {f"groups_{i}": m.astype(np.int64) for i, m in enumerate(self.groups.maps)}

    def rows(self, units: Units, row: Numpy) -> dict[str, Numpy]:
        return {"feature": units.number[row]}

    def endpoint(self, which: str) -> dict[str, Any]:
        return {"feature": -1}

    @property
    def feature_map(self) -> Numpy | None:
        return self.groups.maps[0] if len(self.groups.maps) == 1 else None

    def features_kept(self, ops: Ops, args: Mapping[str, Array]) -> Array:
        removed = ops.rows_equal(args["feature"], ops.arange(self.groups.count, args["feature"]))
        return ops.equal(removed, ops.zeros_like(removed))

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        return [
            ops.where(ops.rows_equal(args["feature"], args[f"groups_{i}"]), base, value)
            for i, (value, base) in enumerate(zip(x, b, strict=True))
        ]

    @cached_property
    def change(self) -> dict[int, Change] | None:
        """The smallest box around each feature, all of the size of the largest."""
        if len(self.shapes) > 1:
            return None
        (features,) = self.groups.maps
        found = {}
        for axis, size in enumerate(features.shape):
            place = np.broadcast_to(np.arange(size).reshape(_along(axis, size, features.shape)), features.shape)
            first, last = np.full(self.units + 1, size), np.full(self.units + 1, -1)
            np.minimum.at(first, features, place)
            np.maximum.at(last, features, place)
            width = max(int((last - first).max()) + 1, 1)
            if width < size:
                found[axis] = Change(np.clip(first, 0, size - width), width)
        return found or None

    def keys(self, ops: Ops, args: Mapping[str, Array]) -> dict[int, Array]:
        feature = args["feature"]
        return dict.fromkeys(self.change or (), ops.where(feature < 0, feature * 0 + self.units, feature))

    def expand_box(self, ops: Ops, x: Array, b: Array, args: Mapping[str, Array], places: Mapping[int, Array]) -> Array:
        axes = sorted(places)
        features = ops.patches(
            ops.insert_axis(args["groups_0"], 0), args["feature"] * 0, [axis + 1 for axis in axes],
            [places[axis][:, 0] for axis in axes], [ops.sample_shape(places[axis])[0] for axis in axes],
            [(0, 0)] * len(axes), 0.0, None, [],
        )  # fmt: skip
        return ops.where(ops.equal(features, ops.reshape_rows(args["feature"], (1,) * len(self.shapes[0]))), b, x)

    def finish(self, sums: Sums, units: Numpy, inputs: Sequence[Numpy]) -> tuple[list[Numpy], list[Numpy] | None]:
        return self.groups.spread(sums.sums[0]), None


# --- occlusion -------------------------------------------------------------------------------

AGGREGATES = ("mean", "mean_per_element", "sum")


@dataclass(frozen=True)
class Occlusion(Removal):
    """Each window is set to the baseline; its effect s(x) − s(x_window) goes to its elements.

    Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2.

    Parameters
    ----------
    window: sizes of the window along the sample's axes, channels included; an int applies to every axis, and
        shorter axes are covered whole. For several inputs a tuple of these.
    stride: likewise; the distance from each window to the next, at most the window's size. The last window of an
        axis is cut off at the border, so that every element is covered.
    aggregate: ``"mean"`` of the effects of the windows that cover an element; ``"mean_per_element"``: the
        same divided by the number of elements in a whole window; ``"sum"``.
    """

    window: Any = 1
    stride: Any = 1
    aggregate: str = "mean"

    name: ClassVar[str] = "occlusion"
    takes_lengths: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_of("aggregate", self.aggregate, AGGREGATES)
        for name in ("window", "stride"):
            given = getattr(self, name)
            object.__setattr__(self, name, _as_tuples(given))
            for size in _flat(getattr(self, name)):
                if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < 1:
                    raise InputError(f"{name} must hold whole numbers ≥ 1; got {given!r}")

    def design(self, shapes: Shapes) -> Design:
        return _Windows(shapes, self)


def _as_tuples(given: Any) -> Any:
    if isinstance(given, np.ndarray):
        given = given.tolist()
    return tuple(map(_as_tuples, given)) if isinstance(given, (tuple, list)) else given


def _flat(given: Any) -> list[Any]:
    return [entry for part in given for entry in _flat(part)] if isinstance(given, tuple) else [given]


def _for_inputs(name: str, given: Any, shapes: Shapes) -> list[Any]:
    """One entry for each input."""
    if not isinstance(given, tuple) or (len(shapes) == 1 and not any(isinstance(part, tuple) for part in given)):
        return [given] * len(shapes)
    if len(given) != len(shapes):
        raise InputError(f"{name} {given!r} for {len(shapes)} attributed inputs: give a tuple, one entry for each")
    return list(given)


def _sizes(name: str, given: Any, shape: tuple[int, ...], most: Sequence[int]) -> tuple[int, ...]:
    """One size for each axis, at most ``most``."""
    if isinstance(given, tuple):
        if len(given) != len(shape):
            raise InputError(f"{name} {given} has {len(given)} sizes; a sample has the shape {shape}")
        sizes = tuple(map(int, given))
        if any(size > limit for size, limit in zip(sizes, most, strict=True)):
            than = f"a sample, {shape}" if name == "window" else f"the window, {tuple(most)}: it would leave gaps"
            raise InputError(f"{name} {given} is larger than {than}")
        return sizes
    if given > max(most, default=1):
        than = f"every axis of a sample, {shape}" if name == "window" else f"the window, {tuple(most)}: gaps"
        raise InputError(f"{name} {given} is larger than {than}")
    return tuple(min(int(given), limit) for limit in most)


class _Windows(Effects):
    """Windows of the first input, last axis fastest, then those of the next."""

    def __init__(self, shapes: Shapes, method: Occlusion) -> None:
        super().__init__(shapes)
        self.aggregate = method.aggregate
        windows, strides = (_for_inputs(name, getattr(method, name), shapes) for name in ("window", "stride"))
        self.windows = [_sizes("window", w, s, s) for w, s in zip(windows, self.shapes, strict=True)]
        self.strides = [_sizes("stride", t, s, w) for t, s, w in zip(strides, self.shapes, self.windows, strict=True)]
        self.starts = [
            [np.arange(-(-(size - w) // t) + 1) * t for size, w, t in zip(*axes, strict=True)]
            for axes in zip(self.shapes, self.windows, self.strides, strict=True)
        ]
        self.counts = [int(np.prod([len(axis) for axis in starts])) for starts in self.starts]
        self.units = sum(self.counts)
        self.corners = self._corners()

    def _corners(self) -> list[Numpy]:
        """For each input the first element of every window, (units, axes); beyond the sample for other inputs' windows.

        A sample of no axes has one window, with one number for a corner: 0, and 1 for other inputs' windows.
        """
        result = []
        first = 0
        for starts, shape, count in zip(self.starts, self.shapes, self.counts, strict=True):
            corners = np.tile(np.array(shape or (1,), np.int64), (self.units, 1))
            own = np.array(list(itertools.product(*starts)), np.int64).reshape(count, len(shape))
            corners[first : first + count] = own if shape else 0
            result.append(corners)
            first += count
        return result

    def placeholders(self) -> Placeholders:
        return {f"corner_{i}": ("rows", (max(len(s), 1),), "int64") for i, s in enumerate(self.shapes)}

    def rows(self, units: Units, row: Numpy) -> dict[str, Numpy]:
        window = units.number[row]
        return {f"corner_{i}": corners[window] for i, corners in enumerate(self.corners)}

    def endpoint(self, which: str) -> dict[str, Any]:
        return {f"corner_{i}": np.array(shape or (1,), np.int64) for i, shape in enumerate(self.shapes)}

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        return [self._occluded(ops, i, *pair, args, {}) for i, pair in enumerate(zip(x, b, strict=True))]

    def _occluded(
        self, ops: Ops, i: int, x: Array, b: Array, args: Mapping[str, Array], places: Mapping[int, Array]
    ) -> Array:
        """Input i, or the box of it at ``places``, with the baseline in each row's window."""
        corner, shape = args[f"corner_{i}"], self.shapes[i]
        covered: Any = corner[:, 0] < 1
        for axis, (size, width) in enumerate(zip(shape, self.windows[i], strict=True)):
            place = places[axis] if axis in places else ops.arange(size, corner)
            from_corner = place - corner[:, axis : axis + 1]
            along = _along(axis, ops.sample_shape(from_corner)[0], shape)
            inside = ops.reshape_rows((from_corner >= 0) & (from_corner < width), along)
            covered = covered & inside if axis else inside
        return ops.where(covered, b, x)

    @cached_property
    def change(self) -> dict[int, Change] | None:
        if len(self.shapes) > 1:
            return None
        local = [(axis, *sizes) for axis, sizes in enumerate(zip(self.shapes[0], self.windows[0], strict=True))]
        return {
            axis: Change(np.clip(np.arange(size + 1), 0, size - width), width)
            for axis, size, width in local
            if width < size
        } or None

    def keys(self, ops: Ops, args: Mapping[str, Array]) -> dict[int, Array]:
        return {axis: args["corner_0"][:, axis] for axis in self.change or ()}

    def expand_box(self, ops: Ops, x: Array, b: Array, args: Mapping[str, Array], places: Mapping[int, Array]) -> Array:
        return self._occluded(ops, 0, x, b, args, places)

    def finish(self, sums: Sums, units: Numpy, inputs: Sequence[Numpy]) -> tuple[list[Numpy], list[Numpy] | None]:
        results = []
        first = 0
        for i, count in enumerate(self.counts):
            lead = np.moveaxis(sums.sums[0][:, first : first + count], (0, 1), (-2, -1))
            first += count
            total = self._over_elements(lead.reshape(*lead.shape[:-1], *map(len, self.starts[i])), i)
            if self.aggregate != "sum":
                total = total / self._over_elements(np.ones([len(axis) for axis in self.starts[i]]), i)
            if self.aggregate == "mean_per_element":
                total = total / np.prod(self.windows[i])
            results.append(total)
        return results, None

    def _over_elements(self, effects: Numpy, i: int) -> Numpy:
        """The sum, at each element, of the effects of the windows that cover it; the last axes are windows."""
        axes = len(self.shapes[i])
        for axis in range(axes):
            element = np.arange(self.shapes[i][axis])[:, None]
            starts = self.starts[i][axis][None]
            covers = ((element >= starts) & (element < starts + self.windows[i][axis])).astype(np.float64)
            place = effects.ndim - axes + axis
            effects = np.moveaxis(np.tensordot(effects, covers, axes=(place, 1)), -1, place)
        return effects


def _along(axis: int, size: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size if i == axis else 1 for i in range(len(shape)))


# --- in-silico mutagenesis -------------------------------------------------------------------


@dataclass(frozen=True)
class ISM(Removal):
    """In-silico mutagenesis of one-hot sequences: s(x with one letter replaced by another) − s(x).

    The result has the input's shape: the effect of letter a at position p is at (a, p), with 0 at the letters of
    the sequence itself, which are not evaluated. Zhou and Troyanskaya 2015, "Predicting Effects of
    Noncoding Variants with Deep Learning-Based Sequence Model", methods.

    Parameters
    ----------
    alphabet_axis: which axis of a sample are the letters: 0 for (letters, positions), −1 for (positions,
        letters). ``None``: the shorter one.
    """

    alphabet_axis: int | None = None

    name: ClassVar[str] = "ism"
    of_changes: ClassVar[bool] = True
    takes_lengths: ClassVar[bool] = False
    baseline: ClassVar[str] = "none"

    def __post_init__(self) -> None:
        if self.alphabet_axis not in (None, 0, 1, -1):
            raise InputError(f"alphabet_axis must be 0, −1 or None; got {self.alphabet_axis!r}")

    def design(self, shapes: Shapes) -> Design:
        return _Substitutions(shapes, self)


class _Substitutions(Effects):
    def __init__(self, shapes: Shapes, method: ISM) -> None:
        super().__init__(shapes)
        if len(self.shapes) != 1:
            raise InputError(
                f"ism takes one input of samples (letters, positions) or (positions, letters); got {shapes}"
            )
        shape = self.shapes[0]
        self.axis = letters_axis(shape, method.alphabet_axis, "ism")
        self.letters, self.positions = shape[self.axis], shape[1 - self.axis]
        self.units = self.positions * (self.letters - 1)

    def placeholders(self) -> Placeholders:
        return {"position": ("rows", (), "int64"), "change": ("rows", (), "int64")}

    def rows(self, units: Units, row: Numpy) -> dict[str, Numpy]:
        position, change = np.divmod(units.number[row], max(self.letters - 1, 1))
        return {"position": position, "change": change + 1}

    def endpoint(self, which: str) -> dict[str, Any]:
        return {"position": -1, "change": 0}

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        return [self._substituted(ops, x[0], args, ops.arange(self.positions, args["position"]))]

    def _substituted(self, ops: Ops, x: Array, args: Mapping[str, Array], places: Array) -> Array:
        """The sequences, or their part at ``places``, each with one letter replaced."""
        letter = ops.arange(self.letters, args["change"]) - args["change"][:, None]
        rotated = ops.gather_rows(x, ops.where(letter < 0, letter + self.letters, letter), self.axis)
        position = places - args["position"][:, None]
        shape = _along(1 - self.axis, ops.sample_shape(position)[0], self.shapes[0])
        return ops.where(ops.reshape_rows(position == 0, shape), rotated, x)

    @property
    def change(self) -> dict[int, Change] | None:
        return {1 - self.axis: Change(np.arange(self.positions), 1)} if self.positions > 1 else None

    def keys(self, ops: Ops, args: Mapping[str, Array]) -> dict[int, Array]:
        position = args["position"]
        return {1 - self.axis: ops.where(position < 0, position * 0, position)}

    def expand_box(self, ops: Ops, x: Array, b: Array, args: Mapping[str, Array], places: Mapping[int, Array]) -> Array:
        return self._substituted(ops, x, args, places[1 - self.axis])

    def check(self, inputs: Sequence[Numpy], first: int, count: int) -> None:
        check_one_hot(inputs[0], self.axis, "ism", first, count)

    def finish(self, sums: Sums, units: Numpy, inputs: Sequence[Numpy]) -> tuple[list[Numpy], list[Numpy] | None]:
        effects = -sums.sums[0]
        n, outputs = len(effects), effects.shape[2:]
        effects = effects.reshape(n, self.positions, self.letters - 1, *outputs)
        there = np.moveaxis(inputs[0], self.axis + 1, 2).argmax(axis=2)
        letter = (there[:, :, None] + np.arange(1, self.letters)) % self.letters
        result = np.zeros((n, self.positions, self.letters, *outputs))
        np.put_along_axis(result, letter.reshape(*letter.shape, *[1] * len(outputs)), effects, axis=2)
        result = np.moveaxis(result, (0, 1, 2), (-3, -2, -1) if self.axis else (-3, -1, -2))
        return [result], None
