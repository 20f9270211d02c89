"""The file of an explainer, and atomic writing of files."""

from .container import Manifest, read_manifest

__all__ = ["Manifest", "read_manifest"]
