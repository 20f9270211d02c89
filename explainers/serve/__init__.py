"""A server of compiled explainers: KServe V1, Open Inference Protocol V2, server-sent events.

>>> from explainers import Explainer, serve  # doctest: +SKIP
>>> serve.run({"digits": Explainer.load("digits.explainer")})  # doctest: +SKIP
"""

from .application import app
from .server import run
from .settings import Settings, read_keys

__all__ = ["Settings", "app", "read_keys", "run"]
