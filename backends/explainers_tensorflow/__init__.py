"""The tensorflow backend. Importing this package imports neither tensorflow nor keras."""

from .backend import BACKEND

__all__ = ["BACKEND"]
