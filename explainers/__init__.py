"""Compile an explanation of a trained network once; call it with new inputs and targets.

>>> import numpy as np
>>> from explainers import Explainer
>>> explain = Explainer.compile(lambda x: (x**2).sum(axis=1), "feature_ablation")
>>> explain(np.array([[1.0, 2.0], [3.0, 0.5]]))
array([[1.  , 4.  ],
       [9.  , 0.25]])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import errors, genomics, methods
from .explainer.api import Explainer
from .explainer.ensembles import Ensemble
from .explainer.explanation import Explanation
from .scheduler import Scheduler
from .spec import References, Signature, TensorSpec

if TYPE_CHECKING:
    from . import cluster, influence, losses, metrics, text
    from .compare import Candidate, Comparison, compare
    from .influence import Influence
    from .metrics import evaluate

__version__ = "0.1.0"
__all__ = [
    "Candidate", "Comparison", "Ensemble", "Explainer", "Explanation", "Influence", "References", "Scheduler",
    "Signature", "TensorSpec", "cluster", "compare", "errors", "evaluate", "genomics", "influence", "losses", "methods",
    "metrics", "text",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what not every program needs at first use, so that importing this package stays fast."""
    if name in ("cluster", "influence", "losses", "metrics", "text"):
        return import_module(f".{name}", __name__)
    if name == "evaluate":
        return import_module(".metrics", __name__).evaluate
    if name == "Influence":
        return import_module(".influence", __name__).Influence
    if name in ("Candidate", "Comparison", "compare"):
        package = import_module(".compare", __name__)
        return package if name == "compare" else getattr(package, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
