"""The numpy backend: any callable from arrays to an array, for methods that only look at outputs."""

from .backend import BACKEND

__all__ = ["BACKEND"]
