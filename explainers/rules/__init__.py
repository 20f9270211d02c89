"""Rule sets: tables from what an operation is to how a message passes through it."""

from .base import RuleSet, Site
from .deeplift import GENOMICS, RESCALE, REVEALCANCEL
from .gradient import DECONVNET, GRADIENT, GUIDED_BACKPROP, ZERO

_ALL = (GRADIENT, GUIDED_BACKPROP, DECONVNET, ZERO, RESCALE, REVEALCANCEL, GENOMICS)
RULE_SETS = {rules.name: rules for rules in _ALL}

__all__ = ["RULE_SETS", "RuleSet", "Site"]
