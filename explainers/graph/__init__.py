"""The model as a flat list of nodes, and what rewrites it for a method."""

from .nodes import Graph, Node, Output, Role, Value

__all__ = ["Graph", "Node", "Output", "Role", "Value"]
