"""The file of an explainer, and files written whole or not at all."""

from .container import Manifest, read_manifest

__all__ = ["Manifest", "read_manifest"]
