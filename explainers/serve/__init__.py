"""A server of compiled explainers: KServe V1, Open Inference Protocol V2, server-sent events.

>>> import numpy as np
>>> from explainers import Explainer, serve
>>> explain = Explainer.compile(lambda x: x.sum(axis=1), "exact_shapley", inputs=np.zeros((1, 3)))
>>> application = serve.app({"sum": explain})  # for any ASGI server; serve.run({"sum": explain}) is one
"""

from .application import app
from .server import run
from .settings import Settings, read_keys

__all__ = ["Settings", "app", "read_keys", "run"]
