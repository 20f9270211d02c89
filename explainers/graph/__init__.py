"""The model as a flat list of nodes, and the rewrites that prepare it for a method."""

from . import called
from .locality import EachPlace, Locality, Repeating, Sliding, Spreading, Summing
from .nodes import Graph, Node, Output, Value
from .roles import Attributes, Function, Registered, Role

__all__ = [
    "Attributes", "EachPlace", "Function", "Graph", "Locality", "Node", "Output", "Registered", "Repeating", "Role",
    "Sliding", "Spreading", "Summing", "Value", "called",
]  # fmt: skip
