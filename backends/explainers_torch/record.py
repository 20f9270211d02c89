"""Recording the ATen operations that a function runs on fake tensors as an fx graph.

The framework's own recorder, make_fx, follows everything that a tensor subclass may do and every number that Python
computes from a size. Here sizes are written down as what they are, expressions of the placeholders' sizes, and each
operation is one node. That takes a fraction of the time.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.utils._python_dispatch import TorchDispatchMode, autograd_would_have_decomposed

from explainers.errors import TraceError

from .sizes import written

_aten = torch.ops.aten
_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
_NODE = "_explainers_node"


def record(
    function: Callable[..., Sequence[Tensor]], arguments: Sequence[Tensor], mode: FakeTensorMode,
    table: Mapping[Any, Callable[..., Any]],
) -> tuple[fx.Graph, dict[str, Tensor]]:  # fmt: skip
    """The operations that ``function`` runs on ``arguments``, fake tensors of ``mode``, and the constants among them.

    ``table``: functions that take the place of operations.
    """
    recorder = Recorder(mode, table)
    for argument in arguments:
        recorder.placeholder(argument)
    with recorder:
        results = function(*arguments)
    recorder.graph.output(tuple(recorder.written(result) for result in results))
    return recorder.graph, recorder.constants


class Recorder(TorchDispatchMode):
    """Writes a node for every operation that is run while it is on. A tensor carries its node as an attribute.

    ``same``: operations whose result is written as their operand.
    """

    same: ClassVar[set[Any]] = {_aten.detach.default, _aten.alias.default}

    def __init__(self, mode: FakeTensorMode, table: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.table = table
        self.memo = Memo(mode)
        self.meta: dict[str, Any] = {}  # of the nodes that are written
        self.graph = fx.Graph()
        self.constants: dict[str, Tensor] = {}
        self._constant_nodes: dict[int, fx.Node] = {}
        self._sizes: list[tuple[Any, fx.Node, int]] = []  # that do not follow from others, with their axes
        self._expressions: dict[Any, Any] = {}

    def placeholder(self, argument: Tensor) -> None:
        self.computed(self.graph.placeholder(f"arg_{len(self.graph.nodes)}"), argument)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return func(*args, **kwargs)
        other = self.table.get(func)
        if other is None and composite(func) and self.takes_apart(func, args):
            other = func.decompose
        if other is not None:
            with self:
                return other(*args, **kwargs)
        result = self.memo.run(func, args, kwargs)
        if func in self.same and self.node_of(args[0]) is not None:
            setattr(result, _NODE, self.node_of(args[0]))
            return result
        target = _aten.lift_fresh_copy.default if func is _aten.lift_fresh.default else func
        given = tuple(map(self.written, args)), {key: self.written(value) for key, value in kwargs.items()}
        node = self.graph.create_node("call_function", target, *given, name=target._opname)
        self.computed(node, result)
        return result

    def takes_apart(self, func: Any, args: Sequence[Any]) -> bool:
        """Whether an operation that consists of others is written as these."""
        return autograd_would_have_decomposed(func, _flat(args))

    def computed(self, node: fx.Node, result: Any) -> None:
        """Take ``result`` for what ``node`` computes."""
        node.meta.update(self.meta, val=result)
        if isinstance(result, Tensor):
            setattr(result, _NODE, node)
            if _has_own_sizes(node):
                sizes = enumerate(result.shape)
                self._sizes += [(size, node, axis) for axis, size in sizes if isinstance(size, torch.SymInt)]
        elif isinstance(result, _SYMBOLIC):
            self._expressions[result.node.expr] = node
        elif isinstance(result, (tuple, list)):
            for place, part in enumerate(result):
                if isinstance(part, (Tensor, *_SYMBOLIC)):
                    self.computed(self.graph.call_function(operator.getitem, (node, place)), part)

    def node_of(self, value: Tensor) -> fx.Node | None:
        node: fx.Node | None = getattr(value, _NODE, None)
        return node if node is not None and node.graph is self.graph else None

    def written(self, value: Any) -> Any:
        """An argument as it stands in the graph."""
        if isinstance(value, Tensor):
            node = self.node_of(value)
            return self._constant(value) if node is None else node
        if isinstance(value, _SYMBOLIC):
            return self._size(value)
        if isinstance(value, (list, tuple)):
            return type(value)([self.written(part) for part in value])
        return value

    def _constant(self, value: Tensor) -> fx.Node:
        if isinstance(value, FakeTensor):
            raise TraceError("an operation used a value that no operation computed; please report this")
        node = self._constant_nodes.get(id(value))
        if node is None:
            name = f"_tensor_constant{len(self.constants)}"
            self.constants[name] = value
            node = self._constant_nodes[id(value)] = self.graph.get_attr(name)
            node.meta["val"] = value
        return node

    # --- sizes -------------------------------------------------------------------------------

    def _size(self, number: Any) -> Any:
        known = number.node.constant if number.node.constant is not None else _known(number)
        if known is not None:
            return known
        expression = number.node.expr
        for symbol in expression.free_symbols - self._expressions.keys():
            self._expressions[symbol] = self._symbol(symbol)
        return written(expression, self.graph, self._expressions)

    def _symbol(self, symbol: Any) -> fx.Node:
        for size, holder, axis in self._sizes:
            if size.node.expr == symbol:
                node = self.graph.call_function(_aten.sym_size.int, (holder, axis))
                node.meta["val"] = size
                return node
        raise TraceError(f"the size {symbol} is not that of an argument or a result; please report this")


def _has_own_sizes(node: fx.Node) -> bool:
    """Whether sizes of the node's result may depend on more than the sizes of its operands."""
    while node.target is operator.getitem:
        node = node.args[0]  # type: ignore[assignment]
    return node.op == "placeholder" or not _repeats(node.target)


def _known(number: Any) -> Any:
    node = number.node
    kinds = {torch.SymInt: node.maybe_as_int, torch.SymFloat: node.maybe_as_float, torch.SymBool: node.maybe_as_bool}
    return kinds[type(number)]()


@cache
def composite(func: Any) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


def _flat(args: Sequence[Any]) -> list[Any]:
    flat: list[Any] = []
    for arg in args:
        flat += arg if isinstance(arg, (list, tuple)) else [arg]
    return flat


# --- results that are known already ------------------------------------------------------------

_UNKNOWN = object()
_KEY = "_explainers_key"
_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}


class Memo:
    """Runs operations on fake tensors, each once for arguments of one kind.

    What a fake tensor is, its shape and strides, takes a while to find out where sizes are symbols, and the layers of a
    model repeat the same operations. Further results are copies of the first.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self.kinds: dict[Any, int] = {}
        self.templates: dict[Any, Any] = {}

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if not _repeats(func):
            result = func(*args, **kwargs)
            for written in _flat(args) if func._schema.is_mutable else ():
                if isinstance(written, Tensor):
                    vars(written).pop(_KEY, None)  # its shape may be another one now
            return result
        try:
            key = (func, self._key(args), self._key(kwargs) if kwargs else None)
            template = self.templates.get(key)
        except TypeError:  # an argument without a key
            return func(*args, **kwargs)
        if template is None:
            result = func(*args, **kwargs)
            self.templates[key] = self._template(result)
            return result
        return func(*args, **kwargs) if template is _UNKNOWN else self._copy(template)

    def _key(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return Tensor, self._kind(value)
        if isinstance(value, _SYMBOLIC):
            return type(value), value.node.expr
        if isinstance(value, (list, tuple)):
            return type(value), *map(self._key, value)
        if isinstance(value, dict):
            return dict, *((key, self._key(part)) for key, part in value.items())
        return type(value), value

    def _kind(self, value: Tensor) -> int:
        """A number for the tensor's shape, strides and dtype."""
        memo, number = getattr(value, _KEY, (None, 0))
        if memo is not self:
            if not isinstance(value, FakeTensor) or value.constant is not None or value.layout is not torch.strided:
                raise TypeError("a tensor of which more matters than its shape")
            sizes = [self._key(size) for size in (*value.shape, *value.stride(), value.storage_offset())]
            what = value.dtype, value.device, len(value.shape), *sizes, value.is_conj(), value.is_neg()
            number = self.kinds.setdefault(what, len(self.kinds))
            setattr(value, _KEY, (self, number))
        return number

    def _template(self, result: Any) -> Any:
        """What makes copies of a result: for a tensor one of the same shape without a device, and its kind."""
        if result is None:
            return None
        if isinstance(result, (tuple, list)):
            parts = [self._template(part) for part in result]
            return _UNKNOWN if _UNKNOWN in parts else [type(result), *parts]
        if not isinstance(result, FakeTensor) or result.constant is not None:
            return _UNKNOWN
        kind, device = self._kind(result), result.device
        with in_kernel_invocation_manager(self.mode):
            empty = result.detach()
        return empty, device, kind

    def _copy(self, template: Any) -> Any:
        if template is None:
            return None
        if isinstance(template, list):
            return template[0](map(self._copy, template[1:]))
        empty, device, kind = template
        result = FakeTensor(self.mode, empty, device)
        setattr(result, _KEY, (self, kind))
        return result


@cache
def _repeats(func: Any) -> bool:
    """Whether equal arguments give equal fake results."""
    if not isinstance(func, torch._ops.OpOverload) or func.namespace not in ("aten", "prims"):
        return False
    lifts = func in (_aten.lift_fresh.default, _aten.lift_fresh_copy.default, _aten.lift.default)
    return not (lifts or func._schema.is_mutable or _DEPENDENT & set(func.tags))
