"""Compile an explanation of a trained network once; call it with new inputs and targets.

>>> import numpy as np
>>> from explainers import Explainer
>>> explain = Explainer.compile(lambda x: (x**2).sum(axis=1), "feature_ablation")
>>> explain(np.array([[1.0, 2.0], [3.0, 0.5]]))
array([[1.  , 4.  ],
       [9.  , 0.25]])
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
