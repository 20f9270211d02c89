"""The torch backend. Importing this package does not import torch."""

from .backend import BACKEND

__all__ = ["BACKEND"]
