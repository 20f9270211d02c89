"""The numpy backend: any callable from arrays to an array, for methods that only look at outputs."""

from explainers.backend import Backend

from . import backend

BACKEND: Backend = backend.BACKEND

__all__ = ["BACKEND"]
