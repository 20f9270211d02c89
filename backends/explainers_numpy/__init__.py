"""The numpy backend: any callable from arrays to an array, for forward-only methods."""

from explainers.backend import Backend

from . import backend

BACKEND: Backend = backend.BACKEND

__all__ = ["BACKEND"]
