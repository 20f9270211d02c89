"""The torch backend. Importing this package does not import torch."""

from explainers.backend import Backend

from . import backend

BACKEND: Backend = backend.BACKEND

__all__ = ["BACKEND"]
