"""Rule sets: tables that say, for each role of an operation, how a message passes through it."""

from .base import RuleSet, Site
from .deeplift import GENOMICS, RESCALE, REVEALCANCEL
from .gradient import DECONVNET, GRADIENT, GUIDED_BACKPROP, ZERO

__all__ = ["DECONVNET", "GENOMICS", "GRADIENT", "GUIDED_BACKPROP", "RESCALE", "REVEALCANCEL", "ZERO", "RuleSet", "Site"]
