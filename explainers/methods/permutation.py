"""Feature permutation: how much the output changes when a feature's values are exchanged between samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from .. import random_numbers
from .base import Numpy, Shapes, at_least
from .occlusion import Ablation
from .removal import Design, Removal, Sums, Units

__all__ = ["FeaturePermutation"]


@dataclass(frozen=True)
class FeaturePermutation(Removal):
    """s(x) − s(x with one feature's values taken from another sample), averaged over ``repeats`` other samples.

    Breiman 2001, "Random Forests", section 10; Fisher, Rudin and Dominici 2019, "All Models are Wrong, but Many are
    Useful", eq. 3.3, by samples. The other samples are drawn from the ``baseline``, :class:`~explainers.References` of
    background data; by default from the samples of the call, so that a sample's attribution depends on the others then.
    They are drawn without replacement: with as many repeats as references, each is used once, and the result is exact.
    The global importance of the features is the mean over samples: ``explanation.importance()``. Let the model return
    its loss for importance in Breiman's sense.

    Parameters
    ----------
    repeats: other samples for each sample and feature.
    groups: as of FeatureAblation.
    """

    repeats: int = 5
    groups: Any = field(default=None, compare=False)

    name: ClassVar[str] = "feature_permutation"
    baseline: ClassVar[str] = "references"
    baseline_of_batch: ClassVar[bool] = True
    sampled: ClassVar[bool] = True
    takes_lengths: ClassVar[bool] = False
    effort: ClassVar[tuple[str, ...]] = ("repeats",)

    def __post_init__(self) -> None:
        at_least("repeats", self.repeats, 1)

    @property
    def has_groups(self) -> bool:
        return self.groups is not None

    def design(self, shapes: Shapes) -> Design:
        return _Exchanges(shapes, self)


class _Exchanges(Ablation):
    """A unit is one exchange; the repeats of a feature follow one another."""

    one_reference = True
    feature_map = None  # each row takes its own reference

    def __init__(self, shapes: Shapes, method: FeaturePermutation) -> None:
        super().__init__(shapes, method.groups)
        self.repeats, self.units = method.repeats, self.groups.count * method.repeats

    def rows(self, units: Units, row: Numpy) -> dict[str, Numpy]:
        return {"feature": units.number[row] // self.repeats}

    def references(self, units: Units, row: Numpy, count: int) -> Numpy:
        """An arithmetic progression modulo ``count`` with a random start and a random step that has no common divisor
        with it: each sample and feature draws without replacement."""
        feature, repeat = np.divmod(units.number[row], self.repeats)
        keys = random_numbers.draw_keys(units.drawn[row], feature)
        start = (random_numbers.unit(keys) * count).astype(np.int64)
        steps = np.flatnonzero(np.gcd(np.arange(1, count + 1), count) == 1) + 1
        drawn = random_numbers.unit(random_numbers.draw_keys(units.drawn[row], feature, 1))
        found: Numpy = (start + steps[(drawn * len(steps)).astype(np.int64)] * repeat) % count
        return found

    def start(self, count: int, outputs: tuple[int, ...]) -> list[Numpy]:
        return [np.zeros((count, self.groups.count, *outputs)) for _ in range(2)]

    def add(self, sums: Sums, units: Units, values: Numpy) -> None:
        effects, feature = sums.x[units.sample] - values[:, 0], units.number // self.repeats
        np.add.at(sums.sums[0], (units.sample, feature), effects)
        np.add.at(sums.sums[1], (units.sample, feature), effects * effects)

    def finish(self, sums: Sums, units: Numpy, inputs: Sequence[Numpy]) -> tuple[list[Numpy], list[Numpy] | None]:
        mean = sums.sums[0] / self.repeats
        variance = np.maximum(sums.sums[1] / self.repeats - mean * mean, 0.0)
        single = self.repeats < 2
        errors = np.full_like(mean, np.nan) if single else np.sqrt(variance / (self.repeats - 1))
        return self.groups.spread(mean), self.groups.spread(errors)
