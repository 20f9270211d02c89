"""Compile an explanation of a trained network once; call it with new inputs and targets.

>>> from explainers import Explainer
>>> explain = Explainer.compile(model, "integrated_gradients")  # doctest: +SKIP
>>> scores = explain(x, target=3)  # doctest: +SKIP
"""

from . import errors, methods
from .api import Explainer
from .comparing import Candidate, Comparison, compare
from .explanation import Explanation
from .scheduler import Scheduler
from .spec import References, Signature, TensorSpec

__version__ = "0.1.0"
__all__ = [
    "Candidate", "Comparison", "Explainer", "Explanation", "References", "Scheduler", "Signature", "TensorSpec",
    "compare", "errors", "methods",
]  # fmt: skip
