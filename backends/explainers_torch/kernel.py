"""Programs as compiled torch functions.

The program runs once over fake tensors whose leading axes are symbolic; every ATen operation is recorded,
including backward ones. That flat graph is scripted, compiled by Inductor, captured as a
CUDA graph, or run as it is.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils import _pytree as pytree

from explainers.backend import Runnable, Size, Traced
from explainers.errors import ExplainersError, InputError, TraceError
from explainers.graph import Value
from explainers.lengths import Length, varies

from . import ops, recurrent, verify
from .record import record
from .script import scripted
from .simplify import make_functional, simplify
from .trace import _TRACING, _trace_error

STATIC = ("inductor", "cudagraphs")  # the engines whose kernels are for one size each
_HINTS = {"samples": 5, "baselines": 3, "rows": 7, "": 0}


class TorchKernel:
    """A compiled program with its weights bound."""

    def __init__(self, native: Any, names: Mapping[Value, str]) -> None:
        self.native = native
        self.names = names
        self.forward = _forward(native)

    def __call__(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result: tuple[torch.Tensor, ...] = self.forward(*arguments)  # neither weights nor arguments require grad
        return result

    def bind(self, weights: Mapping[Value, torch.Tensor]) -> None:
        for value, name in self.names.items():
            setattr(self.native, name, weights[value])


def _forward(native: Any) -> Any:
    """The function to call, without the module's hooks.

    Of TorchScript the bare method: its wrapper in Python fails while torch.export runs in another thread.
    """
    if isinstance(native, torch.jit.ScriptModule):
        return native._c._get_method("forward")
    return getattr(native, "forward", native)


class WeightsFirst(TorchKernel):
    """A graph that takes its weights as its first arguments."""

    def __init__(self, native: Any, weights: Mapping[Value, torch.Tensor]) -> None:
        super().__init__(native, {})
        self.order = list(weights)
        self.weights = list(weights.values())

    def __call__(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.forward(*self.weights, *arguments))

    def bind(self, weights: Mapping[Value, torch.Tensor]) -> None:
        self.weights = [weights[value] for value in self.order]


class StaticKernel(WeightsFirst):
    """A kernel of Inductor or a CUDA graph: shapes are fixed, one call at a time."""

    def __init__(self, native: Any, weights: Mapping[Value, torch.Tensor]) -> None:
        super().__init__(native, weights)
        self.lock = threading.Lock()

    def __call__(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with self.lock:
            return super().__call__(*arguments)


def compile(program: Runnable, traced: Traced, engine: str, rows: Size) -> TorchKernel:
    """Trace ``program`` and compile it for ``engine``; ``rows`` fixes every leading axis."""
    device = traced.device
    if engine == "cudagraphs" and device.type != "cuda":
        raise InputError(f"engine 'cudagraphs' needs a GPU; the model is on {device}. Use torchscript or inductor.")
    with _TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if engine in STATIC:
            return _static(flatten(program, traced, rows), program, traced, engine, rows)
        graph, constants, names = recorded(program, traced, rows)
        return TorchKernel(native(graph, constants, engine), names)


def native(graph: fx.Graph, tensors: dict[str, torch.Tensor], engine: str) -> Any:
    """A graph as a function for an engine without static shapes. ``tensors``: what its attributes refer to."""
    return scripted(graph, tensors) if engine == "torchscript" else fx.GraphModule(tensors, graph)


@dataclass(frozen=True)
class Flat:
    """A graph that takes its weights first, as a program."""

    graph: Any
    placeholders: Sequence[Any]

    def __call__(self, ops: Any, weights: Mapping[Value, Any], *arguments: Any) -> tuple[Any, ...]:
        return tuple(self.graph(*weights.values(), *arguments))


# --- one flat graph --------------------------------------------------------------------------


def recorded(
    program: Runnable, traced: Traced, rows: Size
) -> tuple[fx.Graph, dict[str, torch.Tensor], dict[Value, str]]:
    """The program as a graph, the tensors that its attributes refer to, and the names of the weights among them."""
    graph, constants = _recorded(program, traced, rows, {})
    return graph, constants, _own_weights(graph, constants, traced)


def flatten(program: Runnable, traced: Traced, rows: Size) -> fx.GraphModule:
    """The program as one functional ATen graph: weights, then arguments, in; results out.

    Recurrent layers run step by step. In the graph of a kernel each is one operation of this package.
    """
    graph, constants = _recorded(program, traced, rows, recurrent.FUNCTIONS)
    for node in graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, node.meta["val"])
    return fx.GraphModule(constants, graph)


def _recorded(
    program: Runnable, traced: Traced, rows: Size, table: Mapping[Any, Any]
) -> tuple[fx.Graph, dict[str, torch.Tensor]]:
    """The program as a graph, with the constants that it refers to. ``table``: as of :func:`record`."""
    keys = list(traced.weights)
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    mode.cache_enabled = False  # ours is faster where sizes are symbols
    weights = [mode.from_tensor(w, static_shapes=True) for w in traced.weights.values()]
    arguments = [_fake(mode, p, rows, traced.device) for p in program.placeholders]

    def run(*leaves: Any) -> tuple[Any, ...]:
        return program(ops, dict(zip(keys, leaves, strict=False)), *leaves[len(keys) :])

    leaves = [*weights, *arguments]
    try:
        with mode, torch.no_grad(), enable_python_dispatcher():
            graph, constants = record(run, leaves, mode, table)
    except ExplainersError:
        raise
    except Exception as error:
        raise _trace_error(error) from error
    make_functional(graph)
    if any(map(_writes, graph.nodes)):  # remaining problems are for the framework to report
        graph, constants = _functional(fx.GraphModule(constants, graph), leaves, mode)
    _check(graph, arguments)
    simplify(graph)
    return graph, constants


def _functional(
    module: fx.GraphModule, leaves: Sequence[Any], mode: FakeTensorMode
) -> tuple[fx.Graph, dict[str, torch.Tensor]]:
    with mode, torch.no_grad(), enable_python_dispatcher():
        made = make_fx(torch.func.functionalize(module, remove="mutations"), tracing_mode="real")(*leaves)
    named = {str(node.target) for node in made.graph.nodes if node.op == "get_attr"}
    return made.graph, {name: getattr(made, name) for name in named}


def _check(graph: fx.Graph, arguments: Sequence[torch.Tensor]) -> None:
    """Check that the graph holds for every batch size and writes nothing in place."""
    for argument in arguments:
        for axis, size in enumerate(argument.shape):
            if isinstance(size, torch.SymInt) and size.node.maybe_as_int() is not None:
                what = "a size that varies" if axis else "the batch size"
                raise TraceError(
                    f"an operation of the model fixed {what} while it was traced. Give an engine with static shapes, "
                    "such as 'inductor'."
                )
    for node in graph.nodes:
        if _writes(node):
            raise TraceError(f"operation {node.target} writes in place inside the compiled program; please report this")


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and bool(node.target._schema.is_mutable)


def _lead(holder: Any, rows: Size) -> tuple[int, ...]:
    """The leading size of a placeholder: the given one, or an example size that is distinct for each axis."""
    if not holder.axis:
        return ()
    if isinstance(rows, tuple):
        return (rows[holder.axis == "baselines"],)
    return (rows or _HINTS[holder.axis],)


def _fake(mode: FakeTensorMode, holder: Any, rows: Size, device: torch.device) -> torch.Tensor:
    lead = _lead(holder, rows)
    real = torch.empty((*lead, *holder.shape), dtype=getattr(torch, holder.dtype), device=device)
    if rows or not (holder.axis or varies(holder.shape)):
        return mode.from_tensor(real, static_shapes=True)
    if not holder.axis:
        raise InputError(f"the argument {holder.name!r} varies in size without rows; please report this")
    sizes = [DimDynamic.DUCK, *map(_dynamic, holder.shape)]
    context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
    return mode.from_tensor(real, symbolic_context=context, source=ConstantSource(holder.name))


def _dynamic(size: int) -> DimDynamic:
    """Axes of one length share a symbol; sizes that are computed from a length have one of their own each."""
    if not isinstance(size, Length):
        return DimDynamic.STATIC
    return DimDynamic.DUCK if size.plain else DimDynamic.DYNAMIC


def _own_weights(graph: fx.Graph, constants: dict[str, torch.Tensor], traced: Traced) -> dict[Value, str]:
    """Turn the leading placeholders into constants that share storage with the model's weights; returns their names."""
    names = {}
    holders = [node for node in graph.nodes if node.op == "placeholder"]
    for index, (holder, (value, tensor)) in enumerate(zip(holders, traced.weights.items(), strict=False)):
        if not holder.users:
            graph.erase_node(holder)
            continue
        name = f"weight_{index}"
        constants[name] = tensor
        with graph.inserting_before(holder):
            holder.replace_all_uses_with(graph.get_attr(name))
        graph.erase_node(holder)
        names[value] = name
    return names


# --- static engines --------------------------------------------------------------------------


def _static(graph: fx.GraphModule, program: Runnable, traced: Traced, engine: str, rows: Size) -> StaticKernel:
    examples = list(traced.weights.values())
    for holder in program.placeholders:
        lead = _lead(holder, rows)
        kind = getattr(torch, holder.dtype)
        examples.append(torch.zeros((*lead, *holder.shape), dtype=kind, device=traced.device))
    if engine == "inductor":
        native = verify.compiled(
            lambda options: _inductor(graph, examples, options), graph, examples, len(traced.weights)
        )
    else:
        native = _capture(graph, examples)
    return StaticKernel(native, traced.weights)


def _inductor(graph: fx.GraphModule, examples: list[torch.Tensor], options: dict[str, Any]) -> Any:
    from torch._inductor import compile as inductor

    return inductor(graph, examples, options=options)


def _capture(graph: fx.GraphModule, examples: list[torch.Tensor]) -> Any:
    """The graph as a CUDA graph over static buffers."""
    buffers = [example.clone() for example in examples]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            graph(*buffers)
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(captured):
        results = graph(*buffers)

    def replay(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        for buffer, argument in zip(buffers, arguments, strict=True):
            if buffer.data_ptr() != argument.data_ptr():
                buffer.copy_(argument)
        captured.replay()
        return tuple(result.clone() for result in results)

    return replay
