"""Compile an explanation of a trained network once; call it with new inputs and targets.

>>> from explainers import Explainer
>>> explain = Explainer.compile(model, "integrated_gradients")  # doctest: +SKIP
>>> scores = explain(x, target=3)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from . import errors, methods
from .api import Explainer
from .explanation import Explanation
from .scheduler import Scheduler
from .spec import References, Signature, TensorSpec

if TYPE_CHECKING:
    from .comparing import Candidate, Comparison, compare

__version__ = "0.1.0"
__all__ = [
    "Candidate", "Comparison", "Explainer", "Explanation", "References", "Scheduler", "Signature", "TensorSpec",
    "compare", "errors", "methods",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What is imported at its first use, so that importing stays quick."""
    if name in ("Candidate", "Comparison", "compare"):
        from . import comparing

        return getattr(comparing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
