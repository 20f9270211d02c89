"""Compile an explanation of a trained network once; call it with new inputs and targets.

>>> import numpy as np
>>> from explainers import Explainer
>>> explain = Explainer.compile(lambda x: (x**2).sum(axis=1), "feature_ablation")
>>> explain(np.array([[1.0, 2.0], [3.0, 0.5]]))
array([[1.  , 4.  ],
       [9.  , 0.25]])
"""

from typing import TYPE_CHECKING, Any

from . import errors, genomics, methods
from .explainer.api import Explainer
from .explainer.explanation import Explanation
from .scheduler import Scheduler
from .spec import References, Signature, TensorSpec

if TYPE_CHECKING:
    from .comparing import Candidate, Comparison, compare

__version__ = "0.1.0"
__all__ = [
    "Candidate", "Comparison", "Explainer", "Explanation", "References", "Scheduler", "Signature", "TensorSpec",
    "compare", "errors", "genomics", "methods",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What is imported at its first use, so that importing stays quick."""
    if name in ("Candidate", "Comparison", "compare"):
        from . import comparing

        return getattr(comparing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
