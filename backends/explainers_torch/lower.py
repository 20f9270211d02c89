"""An exported program with some of its operations taken apart, and nothing written in place.

``ExportedProgram.run_decompositions`` runs and checks the whole model again. Here only those operations are run that
the result writes otherwise; all others are copied.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._export.utils import _is_preservable_cia_op
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature, TensorArgument

from .record import Recorder, composite
from .simplify import functional

_aten = torch.ops.aten
_NEW = {  # operations that consist of others and whose result never shares memory with an operand
    _aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default, _aten.conv1d.padding, _aten.conv2d.padding,
    _aten.conv3d.padding, _aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input,
    _aten.batch_norm.default, _aten.layer_norm.default, _aten.group_norm.default, _aten.instance_norm.default,
    _aten.linear.default, _aten.matmul.default, _aten.max_pool1d.default, _aten.max_pool2d.default,
    _aten.max_pool3d.default,
}  # fmt: skip


def _norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, training: bool,
    momentum: float, eps: float, cudnn_enabled: bool,
) -> Any:  # fmt: skip
    return _aten._native_batch_norm_legit_no_training.default(x, weight, bias, mean, variance, momentum, eps)[0]


def _dropout(x: Tensor, p: float, training: bool) -> Tensor:
    return x


_IN_INFERENCE: dict[Any, Callable[..., Any]] = {_aten.batch_norm.default: _norm, _aten.dropout.default: _dropout}


@dataclass(frozen=True)
class Lowered:
    """What reading a trace takes of an ExportedProgram, under the same names."""

    graph: fx.Graph
    graph_signature: ExportGraphSignature
    call_spec: Any
    range_constraints: Any
    constants: Mapping[str, Any]
    state_dict: Mapping[str, Any]


def lowered(program: ExportedProgram, table: Mapping[Any, Callable[..., Any]]) -> Lowered | None:
    """The program without the operations of ``table``; None if it must be functionalized by the framework."""
    holders = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
    mode = next((val.fake_mode for val in holders if isinstance(val, FakeTensor)), None)
    if mode is None:
        return None
    writer = _Writer(mode, {**_IN_INFERENCE, **table})
    with mode, torch.no_grad(), torch._C._AutoDispatchBelowAutograd(), enable_python_dispatcher():
        if not all(map(writer.take, program.graph.nodes)) or writer.constants:
            return None
    graph, signature = writer.graph, program.graph_signature
    specs = [
        dataclasses.replace(spec, arg=TensorArgument(node.name)) if isinstance(node, fx.Node) else spec
        for spec, node in zip(signature.output_specs, writer.results, strict=True)
    ]
    graph.output(tuple(writer.results))
    graph.eliminate_dead_code()
    return Lowered(
        graph, dataclasses.replace(signature, output_specs=specs), program.call_spec, program.range_constraints,
        program.constants, program.state_dict,
    )  # fmt: skip


class _Writer(Recorder):
    """Writes a program node by node. ``nodes``: the node that now computes the value of one of the program's."""

    same: ClassVar[set[Any]] = set()

    def __init__(self, mode: Any, table: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__(mode, table)
        self.nodes: dict[fx.Node, Any] = {}
        self.values: dict[fx.Node, Any] = {}  # of the nodes that are written
        self.sharing: dict[fx.Node, list[fx.Node]] = {}  # the nodes whose value lies in the same memory
        self.results: list[Any] = []

    def takes_apart(self, func: Any, args: Sequence[Any]) -> bool:
        return not _is_preservable_cia_op(func)

    def take(self, node: fx.Node) -> bool:
        """Write one node of the program. False if that is not possible."""
        target = node.target
        if node.op == "output":
            self.results = [self._of(part) for part in node.args[0]]  # type: ignore[union-attr]
            return True
        if target is operator.getitem:
            whole, place = node.args
            parts = self.nodes[whole]  # type: ignore[index]
            if not isinstance(parts, fx.Node):
                self.nodes[node] = parts[place]
                return True
        if node.op == "placeholder" or target is operator.getitem or not isinstance(target, torch._ops.OpOverload):
            if node.op not in ("placeholder", "call_function") or isinstance(target, torch._ops.HigherOrderOperator):
                return False
            return self._copied(node)
        if target in _IN_INFERENCE and node.args[5 if target is _aten.batch_norm.default else 2]:
            return False  # of the batch's statistics, or random
        if target._schema.is_mutable:
            return self._out_of_place(node)
        if target not in self.table and not (composite(target) and self.takes_apart(target, ())):
            return self._copied(node)
        self._run(node, target)
        return True

    def _of(self, argument: Any) -> Any:
        return fx.map_arg(argument, self.nodes.__getitem__)

    def _copied(self, node: fx.Node) -> bool:
        copy = self.graph.node_copy(node, self.nodes.__getitem__)
        self.nodes[node] = copy
        if node.op == "placeholder":
            copy.name = node.name  # also one that fx avoids, such as "input"
        if "val" in node.meta:
            self.values[copy] = node.meta["val"]
            self._carry(copy)
        return True

    def _carry(self, copy: fx.Node) -> None:
        """Let the copied node's value say that it computes it."""
        val = copy.meta["val"]
        if isinstance(val, (tuple, list)):
            return  # its parts have nodes of their own
        self.meta = {key: kept for key, kept in copy.meta.items() if key != "val"}
        self.computed(copy, val)

    def _run(self, node: fx.Node, target: Any) -> Any:
        """Run an operation on the values of its arguments, and write what it consists of."""
        self.meta = {key: kept for key, kept in node.meta.items() if key != "val"}
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda other: self.values[self.nodes[other]])
        with self:
            result = target(*args, **kwargs)
        self.nodes[node] = self._noted(result)
        for operand in node.all_input_nodes:
            if self.nodes[operand] is self.nodes[node]:  # the operand itself, as of a dropout in inference
                self._share(operand, node)
        return result

    def _share(self, first: fx.Node, other: fx.Node) -> list[fx.Node]:
        group = self.sharing.setdefault(first, [first])
        group.append(other)
        self.sharing[other] = group
        return group

    def _noted(self, result: Any) -> Any:
        if isinstance(result, (tuple, list)):
            return type(result)(map(self._noted, result))
        made = self.written(result)
        if isinstance(made, fx.Node):
            self.values[made] = result
        return made

    def _out_of_place(self, node: fx.Node) -> bool:
        """Write an operation on new memory, which nothing else looks at, as one that returns the changed array."""
        target, place = functional(node.target), node.args[0]  # type: ignore[arg-type]
        writes = [a for a in node.target._schema.arguments if a.alias_info is not None and a.alias_info.is_write]  # type: ignore[union-attr]
        if target is None or not isinstance(place, fx.Node) or len(writes) != 1 or "val" not in place.meta:
            return False
        sharing = self.sharing.get(place, [place])
        users = [user for member in sharing for user in member.users if user in self.nodes and user not in sharing]
        if not all(map(_allocates, [sharing[0], *users])):
            return False
        before, after = place.meta["val"], self._run(node, target)
        if before.dtype is not after.dtype or before.shape != after.shape:
            return False
        for member in self._share(place, node):
            self.nodes[member] = self.nodes[node]
        return True


def _allocates(node: fx.Node) -> bool:
    """Whether the node's result lies in memory of its own."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    return all(r.alias_info is None for r in target._schema.returns) and (target in _NEW or not composite(target))
