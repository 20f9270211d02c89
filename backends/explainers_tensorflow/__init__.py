"""The tensorflow backend. Importing this package imports neither tensorflow nor keras."""

from explainers.backend import Backend

from . import backend

BACKEND: Backend = backend.BACKEND

__all__ = ["BACKEND"]
