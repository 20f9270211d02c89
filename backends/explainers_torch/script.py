"""A flat ATen graph as TorchScript, written as source text for TorchScript's own parser.

``torch.jit.script`` reads a function's Python source instead: it is found, parsed and translated node by node.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from . import recurrent

_aten = torch.ops.aten
_SIGNS = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.floordiv: "//", operator.truediv: "/",
    operator.mod: "%", operator.pow: "**", operator.eq: "==", operator.ne: "!=", operator.lt: "<", operator.le: "<=",
    operator.gt: ">", operator.ge: ">=", operator.and_: "and", operator.or_: "or",
}  # fmt: skip
_OF_SIZES: dict[Any, str] = {
    torch.sym_float: "float", torch.sym_int: "int", torch.sym_max: "max", torch.sym_min: "min", torch.sym_not: "not ",
    operator.not_: "not ", operator.neg: "-", math.floor: "math.floor", math.ceil: "math.ceil", math.trunc: "int",
    math.sqrt: "math.sqrt",
    round: "round",
}  # fmt: skip
OF_SIZES = (*_SIGNS, *_OF_SIZES)  # the functions that may compute a size from others


def scripted(graph: fx.Graph, weights: Mapping[str, Tensor]) -> torch.jit.ScriptModule:
    """The graph as the method ``forward`` of a module. ``weights``: what its ``get_attr`` nodes refer to."""
    holder = torch.nn.Module()
    for name, tensor in weights.items():
        holder.register_buffer(name, tensor)
    module = torch.jit._recursive.create_script_module(holder, lambda _: [], share_types=False)
    text, names = _Text().of(graph)
    module._c._define(module._concrete_type, text, names.get)
    return module


class _Text:
    """``names``: what the text refers to, besides its own values."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"torch": torch, "math": math}
        self.places: dict[fx.Node, str] = {}

    def of(self, graph: fx.Graph) -> tuple[str, dict[str, Any]]:
        arguments, lines = ["self"], []
        for node in graph.nodes:
            if node.op == "output":
                lines.append(f"return {self._written(node.args[0])}")
                continue
            name = self.places[node] = f"v{len(self.places)}"
            if node.op == "placeholder":
                arguments.append(name)
            elif node.op == "get_attr":
                self.places[node] = f"self.{node.target}"
            else:
                lines.append(f"{name} = {self._call(node)}")
        return f"def forward({', '.join(arguments)}):\n    " + "\n    ".join(lines) + "\n", self.names

    def _call(self, node: fx.Node) -> str:
        target, args = node.target, node.args
        if target is operator.getitem:
            return f"{self._written(args[0])}[{self._written(args[1])}]"
        given = [*map(self._written, args), *(f"{key}={self._written(value)}" for key, value in node.kwargs.items())]
        if target in _SIGNS:
            return f"({given[0]}) {_SIGNS[target]} ({given[1]})"
        if target in _OF_SIZES:
            return f"{_OF_SIZES[target]}({', '.join(given)})"
        if target is _aten.convolution_backward.default:
            given[3] = "None"  # the sizes of a bias whose gradient is not asked for
        if target is _aten.addmm.default and not node.kwargs:  # TorchScript would execute two steps
            bias, x, turned = args
            if isinstance(turned, fx.Node) and turned.target is _aten.t.default:
                target, given = _aten.linear.default, [*map(self._written, (x, turned.args[0], bias))]
        return f"{self._function(target)}({', '.join(given)})"

    def _function(self, target: Any) -> str:
        found: Callable[..., Any]
        if target in recurrent.FUNCTIONS:
            name, found = f"recurrent_{target._opname}", recurrent.FUNCTIONS[target]
        elif isinstance(target, torch._ops.OpOverload):
            packet = target.overloadpacket  # TorchScript finds the overload itself
            found = _aten.size if packet is _aten.sym_size else packet
            name = f"{target.namespace}_{found._qualified_op_name.rpartition('::')[2]}"
        else:
            name, found = f"function_{getattr(target, '__name__', 'of')}", target
        self.names[name] = found
        return name

    def _written(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self.places[value]
        if isinstance(value, (list, tuple)):
            inner = ", ".join(map(self._written, value))
            return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
        if isinstance(value, float) and not math.isfinite(value):
            return f'float("{value}")'
        if isinstance(value, complex):
            return f"complex({self._written(value.real)}, {self._written(value.imag)})"
        if isinstance(value, torch.device):
            return f'torch.device("{value}")'
        return repr(value)
