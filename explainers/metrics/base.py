"""Metrics as values: what each needs from the model, and its score of a sample.

A metric asks a chunk's :class:`Work` for what it needs. Equal demands of several metrics run once; those that do not
depend on the attribution run once for all methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from .. import random_numbers
from ..errors import InputError
from ..explainer.api import Explainer
from ..explainer.states import Points, States
from ..methods.groups import Groups, SampleGroups
from ..random_numbers import UInt64
from ..spec import Numpy

Explain = Callable[[Explainer, list[Any], Numpy, Any], tuple[list[Numpy], int]]
BLOCK = 1024  # samples of one call of an explainer, at most


@dataclass(frozen=True)
class Metric:
    """Base class.

    Class attributes
    ----------------
    name: the registered name. higher: whether a higher score is better. bounds: between which scores lie.
    signed: whether the score changes with the attribution's sign, so that the reversed control says something.
    undefined: when a sample has no score, as the reason beside its NaN. needs_masks, reexplains: what it takes besides
    samples: masks of the places that matter; explainers that can be called again, not only arrays.
    """

    name: ClassVar[str]
    higher: ClassVar[bool] = True
    signed: ClassVar[bool] = True
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    undefined: ClassVar[str] = ""
    needs_masks: ClassVar[bool] = False
    reexplains: ClassVar[bool] = False

    def score(self, work: Work, method: str) -> Numpy:
        """The score of each sample of a chunk, (n,); NaN where it is undefined."""
        raise NotImplementedError

    def of_all(self, found: Numpy) -> Numpy:
        """The scores of all samples, (N,), where :meth:`score` says by what samples are compared, (N, …)."""
        return found

    def curve(self, work: Work, method: str) -> tuple[Numpy, Numpy] | None:
        """For metrics that are an area: the fractions (n, K) and the values (n, K) of each sample's curve."""
        return None

    @property
    def moves(self) -> bool:
        """Whether samples are changed to numbers between others, which whole numbers and words are not."""
        return False

    def check(self, facts: Facts) -> None:
        """Raise InputError for samples that cannot be scored."""

    def check_explainer(self, name: str, explain: Explainer) -> None:
        """Raise InputError if what ``explain`` explains cannot be changed as the metric asks."""

    @property
    def label(self) -> str:
        """The name with the parameters that differ from their defaults."""
        given = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{self.name}({', '.join(given)})" if given else self.name


@dataclass(frozen=True)
class Facts:
    """What a metric may ask of samples before anything runs.

    shapes: of the attributed inputs' samples. features, outputs: how many a sample has. channel_axis: of images, where
    nothing else is said.
    """

    shapes: Sequence[tuple[int, ...]]
    features: int
    outputs: int
    channel_axis: int


@dataclass(frozen=True)
class Demand:
    """What metrics ask for: evaluated once for equal demands."""

    of_attribution: ClassVar[bool] = True  # else it is the same for all methods

    def run(self, work: Work, method: str) -> Any:
        raise NotImplementedError


@dataclass
class Features:
    """The features of a chunk's samples: ``count`` for each, and how elements belong to them."""

    groups: Groups | SampleGroups
    shapes: list[tuple[int, ...]]

    @property
    def count(self) -> int:
        return self.groups.count

    @cached_property
    def plain(self) -> bool:
        """Whether each element of the only input is a feature, in order."""
        maps = self.groups.maps
        return isinstance(self.groups, Groups) and len(maps) == 1 and bool((np.diff(maps[0].ravel()) == 1).all())

    def elements(self, kept: Numpy, sample: Numpy) -> list[Numpy]:
        """Which elements rows keep, (R, …) for each input, from the features that they keep, (R, G)."""
        if self.plain:
            return [kept.reshape(len(kept), *self.shapes[0])]
        return self.groups.elements(kept, sample)

    def summed(self, parts: list[Numpy]) -> Numpy:
        """(n, G): the sums over each feature's elements of arrays (n, …), one for each input."""
        flat = np.concatenate([np.asarray(part, np.float64).reshape(len(part), -1) for part in parts], axis=1)
        if self.plain:
            return flat
        maps = self.groups.maps
        if isinstance(self.groups, Groups):
            index = np.concatenate([m.ravel() for m in maps])[None].repeat(len(flat), axis=0)
        else:
            spread = [np.broadcast_to(m, (len(flat), *s)) for m, s in zip(maps, self.shapes, strict=True)]
            index = np.concatenate([m.reshape(len(flat), -1) for m in spread], axis=1).astype(np.int64)
        total = np.zeros((len(flat), self.count))
        np.add.at(total, (np.arange(len(flat))[:, None], index), flat)
        return total


@dataclass
class Work:
    """A chunk of samples with their attributions, and what metrics have asked about them so far.

    index: the samples' numbers. attributions: by method, an array (n, …) for each input. derived: methods that are
    another one with its sign reversed. compiled: the explainers of methods that are not arrays. call: calls one:
    inputs, numbers of samples and targets → attributions and rows. masks: the elements that matter, (n, …) for each
    input. rows: evaluated. asked: that metrics would have evaluated, each for one method by itself.
    """

    index: Numpy
    states: States
    features: Features
    attributions: dict[str, list[Numpy]]
    seeds: UInt64
    derived: Mapping[str, str] = field(default_factory=dict)
    compiled: Mapping[str, Explainer] = field(default_factory=dict)
    call: Explain | None = None
    masks: list[Numpy] | None = None
    rows: int = 0
    asked: int = 0
    _known: dict[Hashable, _Found] = field(default_factory=dict)
    _open: list[_Found] = field(default_factory=list)
    _counted: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def own(self) -> list[str]:
        """The methods that are not another one with its sign reversed."""
        return [name for name in self.attributions if name not in self.derived]

    def scores(self, metric: Metric, method: str) -> Numpy:
        """The score of each sample, (n,)."""
        self._counted.clear()
        return np.asarray(metric.score(self, method), np.float64)

    def get(self, demand: Demand, method: str = "") -> Any:
        """The result of a demand, for a method where it depends on the attribution."""
        key = (demand, method if demand.of_attribution else "")
        found = self._known.get(key)
        if found is None:
            found = _Found()
            self._open.append(found)
            try:
                found.result = demand.run(self, method)
            finally:
                self._open.pop()
            self._known[key] = found
        if self._open:
            self._open[-1].needs.append(found)
        else:
            self._count(found)
        return found.result

    def _count(self, found: _Found) -> None:
        if id(found) not in self._counted:
            self._counted.add(id(found))
            self.asked += found.rows
            for other in found.needs:
                self._count(other)

    def ran(self, rows: int) -> None:
        """Count evaluations of the model."""
        self.rows += rows
        if self._open:
            self._open[-1].rows += rows
        else:
            self.asked += rows

    def flat(self, parts: list[Numpy]) -> Numpy:
        """Arrays (n, …) of the inputs as one, (n, E)."""
        return np.concatenate([np.asarray(part, np.float64).reshape(len(self), -1) for part in parts], axis=1)

    def of_features(self, method: str) -> Numpy:
        """A method's attributions summed over the elements of each feature, (n, G)."""
        found: Numpy = self.get(_OfFeatures(), method)
        return found

    def samples(self) -> list[Numpy]:
        """The attributed inputs, (n, …) each."""
        states = self.states
        return [states.backend.numpy(states.inputs[place]).astype(np.float64) for place in states.places]

    def changes(self) -> list[Numpy]:
        """x − b, (n, …) for each attributed input; b is the mean over several baselines."""
        baseline, x = self.states.baseline, self.samples()
        if baseline is None:
            return x
        axis = 1 if baseline.own else 0
        means = [t.mean(axis=axis, keepdims=not baseline.own) if baseline.distribution else t for t in baseline.tables]
        return [part - mean for part, mean in zip(x, means, strict=True)]

    def typed(self, parts: list[Numpy]) -> list[Numpy]:
        """Numbers in the dtypes in which the attributed inputs are passed."""
        specs = self.states.packages.traced.signature.inputs
        kinds = [specs[place].dtype for place in self.states.places]
        return [part.astype("float32" if kind == "bfloat16" else kind) for part, kind in zip(parts, kinds, strict=True)]

    def keys(self, draws: Numpy, sample: Numpy, stream: int) -> UInt64:
        """A key of random numbers for each draw of a sample."""
        return random_numbers.draw_keys(self.seeds[sample], draws, stream)

    def removed(self, sample: Numpy, kept: Callable[[Numpy], Numpy]) -> Numpy:
        """s of rows, (R,), whose features are at the baseline unless they are kept.

        ``kept(rows)``: which features rows keep, (r, G).
        """

        def points(row: Numpy, x: list[Any], b: list[Any]) -> list[Any]:
            ops, packages = self.states.ops, self.states.packages
            flags = self.features.elements(kept(row), sample[row])
            staged = [packages.to_device(flag, "bool") for flag in flags]
            return [ops.where(flag, *pair) for flag, pair in zip(staged, zip(x, b, strict=True), strict=True)]

        return self.values(sample, points)

    def values(self, sample: Numpy, points: Points) -> Numpy:
        """s of rows, as :meth:`.States.values`."""
        self.ran(len(sample) * self.states.references)
        return self.states.values(sample, points)

    def inputs(self, attributed: list[Numpy] | None, sample: Numpy) -> list[Any]:
        """The model's inputs of rows: those of their samples, with ``attributed`` in the place of the attributed."""
        states = self.states
        found = [states.backend.take(array, sample) for array in states.inputs]
        for place, part in zip(states.places, attributed or (), strict=attributed is not None):
            found[place] = part
        return found

    def outputs(self, attributed: list[Numpy] | None, sample: Numpy) -> Numpy:
        """f of rows, (R, …)."""
        self.ran(len(sample))
        return self.states.outputs_at(self.inputs(attributed, sample))

    def explain(
        self, method: str, attributed: list[Numpy] | None, sample: Numpy, *, target: Numpy | None = None,
        by: Explainer | None = None,
    ) -> list[Numpy]:  # fmt: skip
        """A method's attributions of rows, (R, …) for each input, in calls of a fixed number of samples.

        attributed: as for :meth:`inputs`. target: one for each row in place of its sample's. by: another explainer
        in the place of the method's.
        """
        assert self.call is not None
        explain = by or self.compiled[method]
        parts = []
        for start in range(0, len(sample), BLOCK):
            stop = start + BLOCK
            moved = None if attributed is None else [part[start:stop] for part in attributed]
            rows, other = self.inputs(moved, sample[start:stop]), None if target is None else target[start:stop]
            found, evaluated = self.call(explain, rows, self.index[sample[start:stop]], other)
            self.ran(evaluated)
            parts.append(found)
        return [np.concatenate(group) for group in zip(*parts, strict=True)]


@dataclass
class _Found:
    """The result of a demand, the rows that it evaluated itself, and the other demands that it needed."""

    result: Any = None
    rows: int = 0
    needs: list[_Found] = field(default_factory=list)


@dataclass(frozen=True)
class _OfFeatures(Demand):
    def run(self, work: Work, method: str) -> Numpy:
        return work.features.summed(work.attributions[method])


def whole(name: str, given: Any, least: int) -> None:
    if not isinstance(given, (int, np.integer)) or isinstance(given, bool) or given < least:
        raise InputError(f"{name} must be a whole number ≥ {least}; got {given!r}")


def positive(name: str, given: Any) -> None:
    if isinstance(given, bool) or not isinstance(given, (int, float, np.number)) or not 0 < given < math.inf:
        raise InputError(f"{name} must be a number above 0; got {given!r}")
