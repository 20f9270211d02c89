"""Rule sets: tables from the role of an operation to the rule that passes a message through it."""

from .base import RuleSet, Site
from .deeplift import GENOMICS, RESCALE, REVEALCANCEL
from .gradient import DECONVNET, GRADIENT, GUIDED_BACKPROP, ZERO

__all__ = ["DECONVNET", "GENOMICS", "GRADIENT", "GUIDED_BACKPROP", "RESCALE", "REVEALCANCEL", "ZERO", "RuleSet", "Site"]
