"""DeepLIFT and its mean over a distribution of references."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from ..ops import Ops, RowSums
from ..rules import GENOMICS, RESCALE, REVEALCANCEL, RuleSet
from ..rules.gradient import vjp
from .base import Array, one_of
from .multipliers import Multiplied

__all__ = ["DeepLift", "DeepLiftShap"]

RULES: Mapping[str, RuleSet] = MappingProxyType(
    {"rescale": RESCALE, "revealcancel": REVEALCANCEL, "genomics": GENOMICS}
)


@dataclass(frozen=True)
class DeepLift(Multiplied):
    """m·(x−r), where the multiplier m = contribution/Δ is carried back by DeepLIFT's rules.

    Shrikumar, Greenside and Kundaje 2017, eq. 1–3 and section 3.5. Σ attribution = s(x) − s(r) on
    any architecture: there are rules for products and softmax; norms and recurrent cells are decomposed.

    Parameters
    ----------
    rule: ``"rescale"`` (default), ``"revealcancel"``, or ``"genomics"``: Rescale behind convolutions,
        RevealCancel behind dense layers.
    logits: explain the input of the model's last softmax or sigmoid instead of its output.
    mean_normalized: explain a class against the mean of all classes: the target mask minus its mean over the
        output's last axis.
    unsupported: ``"error"`` (default), or ``"gradient"``: pass operations without a rule by their
        derivative. Attributions are then not complete; ``explain.coverage`` and
        ``Explanation.approximations`` name the operations.
    multiply: False returns the multipliers m, contribution per unit of difference.
    hypothetical: for one-hot sequences, what each letter would have contributed at each position:
        Σ m·(e−r) over the letters there, for every letter e, as TF-MoDISco expects it.
    alphabet_axis: which axis of a sample are the letters: 0 or −1; ``None``: the shorter one.
    """

    rule: str = "rescale"
    logits: bool = False
    mean_normalized: bool = False
    unsupported: str = "error"
    multiply: bool = True
    hypothetical: bool = False
    alphabet_axis: int | None = None

    later: ClassVar[frozenset[str]] = frozenset({"multiply", "hypothetical", "alphabet_axis"})
    name: ClassVar[str] = "deeplift"
    rules: ClassVar[RuleSet | None] = RESCALE
    baseline: ClassVar[str] = "point"
    complete: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("rule", self.rule, tuple(RULES))
        one_of("unsupported", self.unsupported, ("error", "gradient"))
        super().__post_init__()

    @property
    def rule_set(self) -> RuleSet:
        found = RULES[self.rule]
        return found if self.unsupported == "error" else dataclasses.replace(found, fallback=vjp)

    @property
    def explains_logits(self) -> bool:
        return self.logits

    @property
    def weighs_target_only(self) -> bool:
        return not self.mean_normalized

    def weights(self, ops: RowSums, mask: Array) -> Array:
        return mask - ops.row_mean(mask) if self.mean_normalized else mask

    def contribute(
        self, ops: Ops, message: list[Array], x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> list[Array]:
        return [self.contribution(ops, m, value, r) for m, value, r in zip(message, x, b, strict=True)]


@dataclass(frozen=True)
class DeepLiftShap(DeepLift):
    """The mean of DeepLIFT over references (Lundberg and Lee 2017, section 4.2).

    Give ``baseline=References(array)``. The model runs once for each sample and once for each
    reference; only the reverse walk runs for each pair. Parameters as for :class:`DeepLift`.
    """

    name: ClassVar[str] = "deeplift_shap"
    baseline: ClassVar[str] = "references"
