"""Layer-wise relevance propagation; the rules and composites to build it from.

>>> from explainers.methods.lrp import LRP, Composite, Gamma, ZBox
>>> method = LRP(Composite([(0, ZBox(0, 1)), ("features.*", Gamma(0.5))]))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import InputError
from ..ops import Ops
from ..rules import RuleSet
from ..rules.composites import COMPOSITES, Composite, composite, relevance
from ..rules.lrp import *  # noqa: F403 - what a composite is made of
from ..rules.lrp import Epsilon, frozen, ratios
from ..rules.lrp import __all__ as LAYER_RULES
from .base import Array, Method

DEFAULT = relevance(composite("epsilon_plus"))


@dataclass(frozen=True)
class LRP(Method):
    """The relevance of each input entry, in the unit of the output: R = w·f(x) propagated back by rules.

    Bach et al. 2015, section 2; on attention, norms and gates by the rules of Achtibat et al. 2024. Σ R stays
    w·f(x), except for what biases, softmax and the stabilizer ε absorb. ε is a fraction of the sample's largest
    output at each operation, so that rules do not depend on units.

    Parameters
    ----------
    composite: the assignment of rules to layers: a :class:`Composite`, or one of

        * ``"epsilon_plus"`` (default): z⁺ for convolutions, ε for dense layers;
        * ``"epsilon_plus_flat"``: the same, flat for the first layer;
        * ``"epsilon_gamma_box"``: γ = ¼ for convolutions, ε for dense layers, z^B for the first layer;
        * ``"alpha_beta"``: α = 2, β = 1 for convolutions, ε for dense layers;
        * ``"epsilon"``: ε for all.
    logits: explain the input of the model's last softmax or sigmoid instead of its output.
    low, high: bounds of the input for ``"epsilon_gamma_box"``: numbers, or one a channel, (3, 1, 1).

    Raises
    ------
    UnknownNameError, InputError: an unknown composite, or bounds that are missing or do not fit; when compiled,
        a pattern of the composite that matches no layer.
    """

    composite: str | Composite = "epsilon_plus"
    logits: bool = False
    low: Any = None
    high: Any = None

    name: ClassVar[str] = "lrp"
    rules: ClassVar[RuleSet | None] = DEFAULT

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, frozen(getattr(self, name)))
        if isinstance(self.composite, str):
            composite(self.composite, self.low, self.high)
        elif not isinstance(self.composite, Composite):
            raise InputError(f"composite must be a Composite or one of {', '.join(COMPOSITES)}; got {self.composite!r}")
        elif self.low is not None or self.high is not None:
            raise InputError("a Composite has its bounds in its ZBox; low= and high= go with 'epsilon_gamma_box'")

    @property
    def rule_set(self) -> RuleSet:
        if isinstance(self.composite, Composite):
            return relevance(self.composite)
        return relevance(composite(self.composite, self.low, self.high))

    @property
    def explains_logits(self) -> bool:
        return self.logits

    def start(self, ops: Ops, mask: Array, y: Array) -> Array:
        return mask * y


@dataclass(frozen=True)
class ELRP(Method):
    """x·∂s/∂x with f(x)/(x + ε·sign x) for the derivative of every activation: ε-LRP as DeepExplain has it.

    Ancona et al. 2018, "Towards better understanding of gradient-based attribution methods", proposition 1.

    Parameters
    ----------
    epsilon: ε, the stabilizer of the quotient.
    """

    epsilon: float = 1e-4

    name: ClassVar[str] = "elrp"
    rules: ClassVar[RuleSet | None] = ratios(1e-4)

    def __post_init__(self) -> None:
        Epsilon(self.epsilon)

    @property
    def rule_set(self) -> RuleSet:
        return ratios(self.epsilon)

    def contribute(
        self, ops: Ops, message: list[Array], x: list[Array], b: list[Array], args: Mapping[str, Array]
    ) -> list[Array]:
        return [value * m for value, m in zip(x, message, strict=True)]


__all__ = ["COMPOSITES", "ELRP", "LRP", "Composite", *LAYER_RULES]
