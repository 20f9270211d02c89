"""The base class of methods: frozen values that define the rows of a sample and their reduction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError, shown
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
    """Shapes without the batch axis. ``attributed``: of what is attributed; ``of_layer``: whether that is a layer.

    ``inputs``: of the floating-point inputs. ``channel_axis``: which axis of an image's sample holds the channels.
    """

    attributed: tuple[tuple[int, ...], ...]
    of_layer: bool
    inputs: tuple[tuple[int, ...], ...]
    channel_axis: int


class Cam(NamedTuple):
    """A class activation map of a layer: its path, the method for it, and the channel axis that the map sums over."""

    layer: str
    method: Method
    channel_axis: int


@dataclass(frozen=True)
class Method(Stored, data=False):
    """Base class. Defaults: one row per sample, gradient rules, no baseline.

    Class attributes
    ----------------
    name: the registered name. rules: the rule set of the reverse walk, or ``None`` (forward only).
    baseline: ``"none"``, ``"point"`` (one for a sample), ``"references"`` (a distribution), or ``"either"``.
    single: exactly one unperturbed row per sample. complete: Σ attribution = f(x) − f(baseline).
    sampled: an estimate from random draws, with a standard error. generates: users' code makes the rows on the
    host, so that calls are not shared and take ``attribution=``. takes_lengths: samples may differ in size from
    call to call. baseline_of_batch: the default baseline is the call's samples, as References. accumulators: number
    of sums per attributed value. effort: the parameters that set the number of evaluations; kernels do not depend on
    them. on_line: rows are the points b + α(x−b), with ``alpha`` and ``weight`` among their arguments, and
    contributions are linear in the message. of_changes: attributions are effects of putting something else in the
    place of what is there, which itself has 0. only_differences: attributions are outputs, so that only
    their differences within a sample say what matters: pictures show them minus their mean.

    In ``expand`` and ``contribute`` rows are the leading axis of arrays; ``args`` are the kernel's placeholders
    by name.
    """

    name: ClassVar[str]
    rules: ClassVar[RuleSet | None] = GRADIENT
    baseline: ClassVar[str] = "none"
    single: ClassVar[bool] = True
    complete: ClassVar[bool] = False
    sampled: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    takes_lengths: ClassVar[bool] = True
    baseline_of_batch: ClassVar[bool] = False
    accumulators: ClassVar[int] = 1
    effort: ClassVar[tuple[str, ...]] = ()
    on_line: ClassVar[bool] = False
    of_changes: ClassVar[bool] = False
    only_differences: ClassVar[bool] = False

    @property
    def rule_set(self) -> RuleSet | None:
        """The rule set: ``rules``, unless the parameters choose another."""
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
    def takes_groups(self) -> bool:
        """Whether a call may bring groups of features of its own, a map for each sample."""
        return False

    @property
    def adds_up(self) -> bool:
        """Whether Σ attribution = f(x) − f(baseline), for the attributions as :meth:`summed` returns them."""
        return self.complete

    def summed(self, x: Numpy, attribution: Numpy) -> Numpy:
        """The part of an attribution that counts for completeness: by default all of it."""
        return attribution

    @property
    def takes_integers(self) -> bool:
        """Whether integers and booleans may be attributed: ids, categories, byte-valued pixels."""
        return False

    @property
    def checks_samples(self) -> bool:
        """Whether :meth:`check` looks at the samples, which are then copied to the host."""
        return False

    def check(self, inputs: Sequence[Numpy]) -> None:
        """Raise InputError for samples that the method cannot take. ``inputs``: the attributed ones, (N, …) each."""

    def fitted(self, model: ModelShapes) -> Method:
        """The method with parameters filled in from the model's shapes; InputError for shapes that it cannot take."""
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
        """Two further points for each row, for methods that change the inputs. The layer's values there are passed
        as ``x`` and ``b`` to :meth:`contribute`; by default it gets those at the row's own point."""
        return None

    @property
    def cam(self) -> Cam | None:
        """The class activation map that attributions are multiplied by; None for none."""
        return None

    @property
    def takes_sets(self) -> bool:
        """Whether its baseline may be :class:`References`."""
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
        """The :class:`Design` of a forward-only method for samples of these shapes."""
        return None

    def refined(self) -> Method | None:
        """The method with more rows per sample, or None if it gives up."""
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
        """Row values for which the expansion is the input itself, or the ``"baseline"``."""
        raise NotImplementedError(f"{self.name} has no endpoint {which}")

    def references(self, steps: Numpy, seeds: UInt64, count: int) -> Numpy:
        """Which of ``count`` references each row uses."""
        return np.zeros(len(steps), np.int64)

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        return x

    def contribute(
        self, ops: Ops, message: list[Array], x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> list[Array]:
        """The contribution of each row to its sample's sums: ``accumulators`` arrays for each attributed value."""
        return message

    def weights(self, ops: RowSums, mask: Array) -> Array:
        """The message at the output where the walk starts, from the target mask (U, …)."""
        return mask

    def start(self, ops: Ops, mask: Array, y: Array) -> Array:
        """Like :meth:`weights`, for methods of one row per sample: from the mask and the output."""
        return mask

    def finish(self, sums: list[Numpy], count: int) -> tuple[Numpy, Numpy | None]:
        """Turn the ``accumulators`` sums over ``count`` rows into (attribution, standard error or None)."""
        return sums[0], None


def at_least(name: str, value: Any, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be a whole number ≥ {least}; got {shown(value)}")


def one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {shown(value)}")


def mean_and_error(total: Numpy, squares: Numpy, count: int) -> tuple[Numpy, Numpy | None]:
    """Mean and its standard error from Σc and Σc² over ``count`` draws."""
    mean = total / count
    if count < 2:
        return mean, None
    variance = np.maximum(squares / count - mean * mean, 0.0) * count / (count - 1)
    return mean, np.sqrt(variance / count)
