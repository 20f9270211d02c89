"""What every method is: a frozen value that says which rows a sample expands to and how they reduce."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..ops import Ops, RowSums
from ..random_numbers import UInt64
from ..rules import GRADIENT, RuleSet
from ..stored import Stored

if TYPE_CHECKING:
    from .removal import Design

Array = Any
Numpy = npt.NDArray[Any]
Shapes = Sequence[tuple[int, ...]]


class ModelShapes(NamedTuple):
    """Shapes without the batch axis. ``attributed``; ``of_layer``: whether these are a layer's values.

    ``inputs``: of the floating-point inputs. ``channel_axis``: which axis of an image's sample holds the channels.
    """

    attributed: tuple[tuple[int, ...], ...]
    of_layer: bool
    inputs: tuple[tuple[int, ...], ...]
    channel_axis: int


class Cam(NamedTuple):
    """A map of a layer: its path, the method that makes the map, and the axis of channels that the map lacks."""

    layer: str
    method: Method
    channel_axis: int


@dataclass(frozen=True)
class Method(Stored, data=False):
    """The defaults: one row a sample, the derivative's walk, no baseline.

    Class attributes
    ----------------
    name: as registered. rules: the rule set of the reverse walk, or ``None`` (forward only).
    baseline: ``"none"``, ``"point"`` (one for a sample), ``"references"`` (a distribution), or ``"either"``.
    single: exactly one unperturbed row a sample. complete: Σ attribution = f(x) − f(baseline).
    sampled: an estimate from random draws, with a standard error. generates: users' code makes its rows on the
    host, so that its calls run by themselves and take ``attribution=``. accumulators: sums kept per
    attributed value. effort: the parameters that say how much is evaluated; kernels do not depend on them.

    In ``expand`` and ``contribute`` the arrays have the rows leading, ``args`` are the kernel's
    placeholders by name.
    """

    name: ClassVar[str]
    rules: ClassVar[RuleSet | None] = GRADIENT
    baseline: ClassVar[str] = "none"
    single: ClassVar[bool] = True
    complete: ClassVar[bool] = False
    sampled: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    accumulators: ClassVar[int] = 1
    effort: ClassVar[tuple[str, ...]] = ()

    @property
    def rule_set(self) -> RuleSet | None:
        """``rules``, or those that the parameters choose."""
        return self.rules

    @property
    def explains_logits(self) -> bool:
        """Whether the input of the model's last softmax or sigmoid is explained, in place of its output."""
        return False

    @property
    def weighs_target_only(self) -> bool:
        """Whether :meth:`weights` is 0 where the target mask is."""
        return True

    @property
    def has_groups(self) -> bool:
        """Whether the method has groups of features, each removed as a whole."""
        return False

    @property
    def adds_up(self) -> bool:
        """Whether Σ attribution = f(x) − f(baseline), of what :meth:`summed` makes of the attributions."""
        return self.complete

    def summed(self, x: Numpy, attribution: Numpy) -> Numpy:
        """The part of an attribution that adds up: all of it."""
        return attribution

    @property
    def takes_integers(self) -> bool:
        """Whether whole numbers and booleans may be attributed: ids, categories, pixels of one byte."""
        return False

    @property
    def checks_samples(self) -> bool:
        """Whether :meth:`check` looks at the samples, which are brought to the host for it."""
        return False

    def check(self, inputs: Sequence[Numpy]) -> None:
        """Raise InputError for samples that the method cannot take; ``inputs``: the attributed, (N, …) each."""

    def fitted(self, model: ModelShapes) -> Method:
        """The same method with what follows from the model's shapes; InputError for shapes that it cannot take."""
        return self

    def result_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a sample's attribution, for an attributed value of ``shape``."""
        return shape

    @property
    def moves_inputs(self) -> bool:
        """Whether the method varies the model's inputs and attributes to a layer that it only observes."""
        return False

    def ends(
        self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> tuple[list[Array], list[Array]] | None:
        """Of methods that move the inputs: two further points of each row. The layer's values there are the
        ``x`` and ``b`` of :meth:`contribute`; without them it gets those at the row's own point."""
        return None

    @property
    def cam(self) -> Cam | None:
        """The map that attributions are multiplied by."""
        return None

    @property
    def takes_sets(self) -> bool:
        """Whether its baseline may be References."""
        return self.baseline in ("references", "either")

    @property
    def refines_to(self) -> float | None:
        """The relative completeness gap that each sample is refined to; None for a fixed number of rows."""
        return None

    @property
    def error_to(self) -> float | None:
        """The standard error that each sample's attributions are brought to; None for a fixed number of rows."""
        return None

    @property
    def most_evaluations(self) -> int | None:
        """The largest number of rows that a sample may need to reach :attr:`error_to`; None for no limit."""
        return None

    def design(self, shapes: Shapes) -> Design | None:
        """The rows of samples of these shapes, for a forward-only method."""
        return None

    def refined(self) -> Method | None:
        """The same method with more rows a sample, or None where it gives up."""
        return None

    def count(self, shapes: Shapes) -> int:
        """Rows per sample."""
        return 1

    def placeholders(self, shapes: Shapes) -> dict[str, tuple[str, tuple[int, ...], str]]:
        """Further kernel arguments: name → (leading axis, shape, "float" or an integer dtype)."""
        return {}

    def constants(self, shapes: Shapes) -> dict[str, Numpy]:
        """Values of the placeholders without a leading axis."""
        return {}

    def rows(self, steps: Numpy, seeds: UInt64) -> dict[str, Numpy]:
        """Values of the placeholders whose leading axis is the rows, for the given steps (R,)."""
        return {}

    def endpoint(self, which: str) -> dict[str, float | int]:
        """Row values at which the expansion is the input itself, or the ``"baseline"``."""
        raise NotImplementedError(f"{self.name} has no endpoint {which}")

    def references(self, steps: Numpy, seeds: UInt64, count: int) -> Numpy:
        """Which of ``count`` references each row uses."""
        return np.zeros(len(steps), np.int64)

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        return x

    def contribute(
        self, ops: Ops, message: list[Array], x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> list[Array]:
        """What each row adds to its sample's sums: ``accumulators`` arrays for each attributed value."""
        return message

    def weights(self, ops: RowSums, mask: Array) -> Array:
        """The message that the walk starts with at the output, from the target mask (U, …)."""
        return mask

    def start(self, ops: Ops, mask: Array, y: Array) -> Array:
        """The message that the walk of one row for each sample starts with, from the mask and the output."""
        return mask

    def finish(self, sums: list[Numpy], count: int) -> tuple[Numpy, Numpy | None]:
        """From the ``accumulators`` sums over ``count`` rows to (attribution, standard error or None)."""
        return sums[0], None


def at_least(name: str, value: Any, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number ≥ {least}; got {value!r}")


def one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def mean_and_error(total: Numpy, squares: Numpy, count: int) -> tuple[Numpy, Numpy | None]:
    """Mean and its standard error from Σc and Σc² over ``count`` draws."""
    mean = total / count
    if count < 2:
        return mean, None
    variance = np.maximum(squares / count - mean * mean, 0.0) * count / (count - 1)
    return mean, np.sqrt(variance / count)
