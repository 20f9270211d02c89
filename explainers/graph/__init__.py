"""The model as a flat list of nodes, and the rewrites that prepare it for a method."""

from . import called
from .nodes import Graph, Node, Output, Value
from .roles import Attributes, Function, Registered, Role

__all__ = ["Attributes", "Function", "Graph", "Node", "Output", "Registered", "Role", "Value", "called"]
