"""Tracing a torch model into a Graph: torch.export with a dynamic batch, functionalized and read node by node."""

from __future__ import annotations

import inspect
import logging
import operator
import os
import re
import sys
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.fx.traceback import annotate, preserve_node_meta
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from explainers.backend import Change, Traced
from explainers.errors import ExplainersError, InputError, TraceError
from explainers.graph import Attributes, Function, Graph, Locality, Node, Output, Role, Value
from explainers.lengths import varies
from explainers.spec import Signature, TensorSpec

from . import axes, decompose, own, recurrent, roles
from .axes import Axes
from .backend import of_keras
from .locality import locality
from .lower import Lowered, lowered
from .operands import Operand
from .twin import hooks_restored, in_inference
from .watch import Watch

_TRACING = threading.RLock()  # torch.export has global state while it runs
_EXAMPLE_ROWS = 3
OWN_LIBRARIES = ("aten", "prims", "explainers_own", "explainers_recurrent")


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- signature -------------------------------------------------------------------------------


def signature(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature | None:
    """Specs from examples; without any, from an ExportedProgram or a Keras model, which declare their inputs."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(
            f"the model cannot be traced: a {type(model).__name__} is TorchScript, which torch.export cannot read. "
            "Give the module that it was made from."
        )
    return declared(model, args, kwargs)


def declared(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature | None:
    """:func:`signature` for any model, also for one that cannot be traced."""
    if not args and not kwargs:
        return _own_signature(model)
    own = _own_signature(model)
    kinds = floating_dtypes(model)
    if own is not None:
        given = own.bind(args, dict(kwargs))
        specs = [_spec(a, s.name, kinds) for a, s in zip(given, own.inputs, strict=True)]
        return replace(own, inputs=tuple(specs))
    names, args, kwargs = _named(model, args, kwargs)
    return Signature.of(args, kwargs, names, partial(_spec, kinds=kinds))


class Preceded(torch.nn.Module):
    """x ↦ model(change(x)), of the inputs of ``signature`` one after the other."""

    def __init__(self, model: Any, signature: Signature, change: Change) -> None:
        super().__init__()
        self.model = model.module() if isinstance(model, ExportedProgram) else model
        self.known, self.change = signature, change

    def forward(self, *arrays: torch.Tensor) -> Any:
        args, kwargs = self.known.call(self.change(arrays))
        return self.model(*args, **kwargs)


class Followed(torch.nn.Module):
    """(x, y) ↦ loss(model(x), y), of the inputs of ``signature`` one after the other, and y."""

    def __init__(self, model: Any, signature: Signature, loss: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.model = model.module() if isinstance(model, ExportedProgram) else model
        self.known, self.loss = signature, loss

    def forward(self, *arrays: torch.Tensor) -> Any:
        args, kwargs = self.known.call(arrays[:-1])
        return self.loss(self.model(*args, **kwargs), arrays[-1])


def _own_signature(model: Any) -> Signature | None:
    if isinstance(model, ExportedProgram):
        holders = {n.name: n.meta["val"] for n in model.graph.nodes if n.op == "placeholder"}
        user = [s.arg.name for s in model.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
        specs = tuple(_spec(holders[name], name, ()) for name in user)
        return Signature(
            specs, len(pytree.tree_leaves(model.example_inputs[0])) if model.example_inputs else len(specs)
        )
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(model, keras.Model) and getattr(model, "inputs", None):
        specs = tuple(TensorSpec(tuple(i.shape), str(i.dtype), i.name) for i in model.inputs)
        return Signature(specs, len(specs))
    return None


def _named(
    model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[str], Sequence[Any], Mapping[str, Any]]:
    """The names of the positional arguments, their values, and the keyword arguments."""
    known = _parameters(model)
    try:
        known.bind(*args, **kwargs)
    except TypeError as error:
        required = [p for p in known.parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        if args or len(required) != 1 or known.parameters.keys() & kwargs.keys():
            raise InputError(f"{type(model).__name__}.forward{known}: {error}") from error
        return [""], [dict(kwargs)], {}  # a dict is the argument
    names: list[str] = []
    for parameter in known.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(len(args) - len(names))]
        elif parameter.kind is not parameter.VAR_KEYWORD:
            names.append(parameter.name)
    return names[: len(args)], args, kwargs


def _parameters(model: Any) -> inspect.Signature:
    """The parameters of the model's ``forward``; Python knows none of TorchScript's."""
    schema = getattr(model.forward, "schema", None)
    if schema is None:
        return inspect.signature(model.forward)
    kind, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            inspect.Parameter(
                argument.name, keyword if argument.kwarg_only else kind,
                default=argument.default_value if argument.has_default_value() else inspect.Parameter.empty,
            )
            for argument in schema.arguments[1:]  # the first is the module
        ]
    )  # fmt: skip


def _spec(value: Any, name: str, kinds: Sequence[str]) -> TensorSpec:
    """The spec of an example. ``kinds``: dtypes of the model's floating-point tensors. If there is one, floating inputs
    get it; of several, a tensor keeps its own dtype and an array gets the widest."""
    if isinstance(value, TensorSpec):
        return TensorSpec(value.shape, value.dtype, value.name or name)
    if isinstance(value, torch.Tensor):
        dtype, shape = dtype_name(value.dtype), tuple(value.shape)
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise InputError(f"input {name!r} of type {type(value).__name__} is not an array of numbers")
        dtype, shape = str(array.dtype), array.shape
    if not shape:
        raise InputError(f"input {name!r} is a single number; inputs have the batch as their first axis")
    if kinds and dtype.startswith(("float", "bfloat")) and (len(kinds) == 1 or not isinstance(value, torch.Tensor)):
        dtype = max(kinds, key=lambda kind: getattr(torch, kind).itemsize)
    return TensorSpec((None, *shape[1:]), dtype, name)


def floating_dtypes(model: Any) -> list[str]:
    """The floating-point dtypes of the model's parameters, or of its buffers if it has none."""
    if not isinstance(model, torch.nn.Module):
        return []
    for tensors in (model.parameters(), model.buffers()):
        kinds = dict.fromkeys(dtype_name(t.dtype) for t in tensors if t.dtype.is_floating_point)
        if kinds:
            return list(kinds)
    return []


# --- tracing ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Export:
    """A model as torch.export records it, before decompositions. ``watch``: what was seen meanwhile. ``calls``: of
    users' ``torch.autograd.Function``, which the operations in the program refer to by number."""

    program: ExportedProgram
    watch: Watch
    calls: list[own.OwnCall]

    def decomposed(self, elementary: bool, varying: bool) -> ExportedProgram | Lowered:
        """``varying``: whether other axes than the batch vary, whose conditions the framework's own pass finds."""
        table = decompose.TABLE if elementary else decompose.ALWAYS
        try:
            with own.recorded(self.calls), self.watch:
                found = None if varying else lowered(self.program, table)
                return found or self.program.run_decompositions(table)
        except ExplainersError:
            raise
        except Exception as error:
            raise _trace_error(error, self.watch) from error


@dataclass
class Exports:
    """The exports of one model for one signature, made when they are needed. ``plain``: its trace as it is written.

    Recurrent layers are one operation each in ``whole``, and go step by step in ``apart``; without any, both are one.
    """

    whole: Export | None = None
    apart: Export | None = None
    plain: Traced | None = None

    def of(self, whole: bool, export: Callable[[Mapping[Any, Any]], Export]) -> Export:
        """An export. ``export``: makes one, with replacements for torch's functions of recurrent layers."""
        found = self.whole if whole else self.apart
        if found is None:
            found = export(recurrent.LAYERS if whole else {})
            alike = not found.watch.recurrent
            self.whole = found if whole or alike else self.whole
            self.apart = found if not whole or alike else self.apart
        return found

    @property
    def elementary(self) -> bool:
        """Whether the trace as the model is written has nothing to take apart.

        Decompositions replace only the operations of their table, and whichever of these an operation outside it
        consists of, it stays in a trace.
        """
        if self.plain is None or self.whole is not self.apart:
            return False
        program: ExportedProgram | Lowered = self.plain.memory[1]
        return not any(node.target in decompose.COMPOSITE for node in program.graph.nodes)


def trace(
    model: Any, sig: Signature, device: Any, dtype: str | None, elementary: bool = False,
    kept: dict[Any, Any] | None = None,
) -> Traced:  # fmt: skip
    """Export the model in inference mode and read it into a Graph.

    ``kept``: exports that further traces of the same model, with the same arguments but ``elementary``, start from.
    """
    if dtype is not None:
        specs = (TensorSpec(s.shape, dtype, s.name) if s.floating else s for s in sig.inputs)
        sig = replace(sig, inputs=tuple(specs))
    origin = home(model)
    place = torch.device(device) if device is not None else origin
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", torch.cuda.current_device())
    sig = axes.with_examples(sig)
    exports = Exports()
    if kept is not None and not sig.lengths:  # conditions on sizes add up over the decompositions of an export
        exports = kept.setdefault("exports", exports)
    with _TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if elementary and exports.elementary and exports.plain is not None:
            return replace(exports.plain, weights=bind_weights(model, exports.plain))

        def export(layers: Mapping[Any, Any]) -> Export:
            return _export(inference_copy(model, dtype, place if place != origin else None), sig, place, layers)

        found = exports.of(not elementary, export)
        program = found.decomposed(elementary, bool(sig.lengths))
        if recurrent.weights_move(program):
            found = exports.of(False, export)
            program = found.decomposed(elementary, bool(sig.lengths))
        sizes = axes.Axes(program, sig)
        with own.recorded(found.calls):
            graph, memory = _read(program, sig, sizes)
    sig = axes.with_bounds(sig, sizes, graph)
    traced = Traced(graph, sig, {}, device=place, memory=(memory, program, dtype))
    traced.weights = bind_weights(model, traced)
    if not elementary:
        exports.plain = traced
    return traced


def home(model: Any, otherwise: torch.device | None = None) -> torch.device:
    """The device of the model's tensors; without any, ``otherwise``, by default the CPU."""
    if isinstance(model, ExportedProgram):
        tensors = list(model.state_dict.values())
    else:
        tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else otherwise or torch.device("cpu")


def inference_copy(model: Any, dtype: str | None, device: torch.device | None, traced: bool = True) -> torch.nn.Module:
    """A copy of the modules over the same tensors, in inference mode: the user's own are never changed.

    ``traced``: whether it is made to be traced; otherwise it is called.
    """
    if isinstance(model, ExportedProgram) and (traced or (device is None and dtype is None)):
        return model.module()
    if isinstance(model, ExportedProgram):
        return in_inference(model.module(), device, getattr(torch, dtype) if dtype else None)
    if of_keras(model):
        return _KerasCall(model, traced)
    return in_inference(model, device, getattr(torch, dtype) if dtype else None)


class _KerasCall(torch.nn.Module):
    """A Keras model on the torch backend as a module with flat inputs, in inference mode."""

    def __init__(self, model: Any, traced: bool) -> None:
        super().__init__()
        self.model = model
        self.traced = traced

    def forward(self, *inputs: torch.Tensor) -> Any:
        if not self.traced:
            return self._forward(*inputs)
        with preserve_node_meta(), _KerasScopes():
            return self._forward(*inputs)

    def _forward(self, *inputs: torch.Tensor) -> Any:
        struct = getattr(self.model, "_inputs_struct", None)
        packed = pytree.tree_unflatten(list(inputs), pytree.tree_structure(struct)) if struct is not None else inputs
        if struct is None and len(inputs) == 1:
            packed = inputs[0]
        return self.model(packed, training=False)


class _KerasScopes(TorchFunctionMode):
    """Marks each operation with the Keras layers around it: Keras bypasses nn.Module's call, so export sees none."""

    def __init__(self) -> None:
        super().__init__()
        self.entered: list[tuple[Any, str, str]] = []  # (scope, path, path with the number of the call)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with annotate({"modules": self._modules()}):
            return func(*args, **(kwargs or {}))

    def _modules(self) -> tuple[str, ...]:
        from keras.src.backend.common import global_state

        found: list[str] = []
        names: list[str] = []
        for scope in (global_state.get_global_attribute("name_scope_stack") or [])[1:]:  # the first is the model itself
            names.append(scope.name)
            path = ".".join(names)
            known = next((name for entered, _, name in self.entered if entered is scope), None)
            if known is None:
                calls = sum(path == other for _, other, _ in self.entered)
                known = f"{path}@{calls}" if calls else path
                self.entered.append((scope, path, known))
            found.append(known)
        return tuple(found)


def _export(module: torch.nn.Module, sig: Signature, device: torch.device, layers: Mapping[Any, Any]) -> Export:
    """Export the module. ``layers``: replacements for torch's functions of recurrent layers."""
    examples = [
        torch.zeros((_EXAMPLE_ROWS, *s.sample_shape), dtype=getattr(torch, s.dtype), device=device) for s in sig.inputs
    ]
    args, kwargs = sig.call(examples)
    batch = Dim("batch", min=1, max=2**31 - 1)
    dynamic = {id(example): {0: batch, **axes.dynamic(s)} for example, s in zip(examples, sig.inputs, strict=True)}
    _spell_out(module, kwargs)
    arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    shapes = pytree.tree_map(
        lambda leaf: dynamic.get(id(leaf), {0: batch}) if isinstance(leaf, torch.Tensor) else None, dict(arguments)
    )
    watch = Watch(layers)
    try:
        with own.recorded() as calls, hooks_restored(module), _unlogged(), watch:
            program = torch.export.export(module, tuple(args), kwargs, dynamic_shapes=shapes, strict=False)
            _stop_derivatives(program)
            return Export(program, watch, list(calls))
    except ExplainersError:
        raise
    except Exception as error:
        raise _trace_error(error, watch) from error


def _spell_out(module: torch.nn.Module, kwargs: Mapping[str, Any]) -> None:
    """Wrap the forward of our twin: named parameters replace ``**kwargs``, which torch.export cannot follow, and only
    tensors are returned, without the key-value caches of decoders."""
    if isinstance(module, torch.fx.GraphModule):
        return
    forward, known = module.forward, inspect.signature(module.forward)
    named = [p for p in known.parameters.values() if p.kind is not p.VAR_KEYWORD]
    rest = [name for name in kwargs if name not in known.parameters]
    named += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in rest]

    def spelled_out(*args: Any, **given: Any) -> Any:
        return pytree.tree_map(lambda leaf: leaf if isinstance(leaf, torch.Tensor) else None, forward(*args, **given))

    spelled_out.__signature__ = known.replace(parameters=named)  # type: ignore[attr-defined]
    module.forward = spelled_out


def _stop_derivatives(program: ExportedProgram) -> None:
    """Detach the values that leave a ``no_grad`` block: torch.export keeps the block, decompositions drop it."""
    for module in list(program.graph_module.modules()):
        for node in list(module.graph.nodes) if isinstance(module, torch.fx.GraphModule) else ():
            if node.op == "call_function" and "set_grad_enabled" in str(node.target) and node.args[0] is False:
                _detach_outputs(getattr(module, str(node.args[1].target)))


def _detach_outputs(block: torch.fx.GraphModule) -> None:
    (output,) = (node for node in block.graph.nodes if node.op == "output")

    def detached(node: torch.fx.Node) -> torch.fx.Node:
        if not isinstance(node.meta.get("val"), torch.Tensor):
            return node
        made = block.graph.call_function(torch.ops.aten.detach.default, (node,))
        made.meta = dict(node.meta)
        return made

    with block.graph.inserting_before(output):
        output.args = torch.fx.map_arg(output.args, detached)
    block.recompile()


@contextmanager
def _unlogged() -> Iterator[None]:
    """A context without torch's log of errors in fake tensors: it repeats, with a traceback, what is raised anyway."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


def _trace_error(error: Exception, watch: Watch | None = None) -> TraceError:
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kind = type(error).__name__
    where = user_line(error)
    if "GuardOnDataDependent" in kind or "data-dependent" in text.lower():
        what = "its control flow depends on the values of a tensor"
        advice = (
            "A compiled explanation runs the same operations on every batch. Write the choice with torch.where, "
            "or give a model without this branch (fix the flag, or wrap the part that is explained)."
        )
    elif "specialized" in text or "Constraints violated" in text or "ConstraintViolation" in kind:
        what, advice, lines = _fixed_size(lines, watch)
    else:
        what = f"torch.export raised {kind}: {lines[0].rstrip('.') if lines else ''}"
        advice = (
            "Simplify this line." if where else "Check that the model itself runs on inputs of these shapes and types."
        )
    detail = f"\n(torch.export: {lines[0][:300]})" if lines else ""
    return TraceError(f"the model cannot be traced{f' at {where}' if where else ''}: {what}. {advice}{detail}")


def _fixed_size(lines: list[str], watch: Watch | None) -> tuple[str, str, list[str]]:
    """Problem and advice for a model that works for some batch sizes only; the framework's lines, the reason first."""
    reasons = [line.lstrip("- ") for line in lines if line.startswith("- ")] or lines
    bounds = re.search(r"generated guard (.+)", reasons[0])
    if bounds:
        limits = re.sub(r"L\[[^ ]*?\.size\(\)\[0\]", "batch", bounds[1])
        what = f"it branches on the batch size: the traced program holds for {limits} only"
        return what, "Write the operation that asks for the size in a way that is the same for all.", reasons
    varying = re.search(r"L\['(\w+)'\].*?size\(\)\[([1-9]\d*)\] as dynamic", reasons[0])
    if varying:
        what = f"it works for one size of axis {varying[2]} of {varying[1]!r} only, which inputs= lets vary"
        return what, "Give the size there, and compile an explainer for each size that you need.", reasons
    asked = list(dict.fromkeys(map(_users, watch.lengths))) if watch is not None else []
    if asked:
        what = f"it works for one batch size only, since len() of a tensor is a fixed number: {'; '.join(asked)}"
        return what, "Write x.shape[0] in place of len(x).", reasons
    advice = (
        "Use x.shape[0] (or -1) where the code has a number in place of the batch size; int(x.shape[0]), len(x) and "
        "loops over the samples fix it, too."
    )
    return "it works for one batch size only", advice, reasons


NOT_USERS = (
    os.path.dirname(torch.__file__),
    os.path.dirname(os.path.abspath(__file__)),
    sysconfig.get_paths()["stdlib"] + os.sep + "contextlib",
    sysconfig.get_paths()["stdlib"] + os.sep + "copyreg",
)


def _users(frames: traceback.StackSummary) -> str:
    for frame in reversed(frames):
        if not frame.filename.startswith((*NOT_USERS, "<")):
            return f"{frame.filename}:{frame.lineno} ({(frame.line or '').strip()})"
    return ""


def user_line(error: BaseException) -> str:
    """``file:line (code)`` of the last frame in the user's code."""
    own_frame = _users(traceback.extract_tb(error.__traceback__))
    if own_frame:
        return own_frame
    found = re.findall(r'File "([^"]+)", line (\d+), in \S+\n\s*(.+)', str(error))
    own = [f for f in found if not f[0].startswith(NOT_USERS)]
    return "{}:{} ({})".format(*own[-1]) if own else ""


# --- reading the exported graph --------------------------------------------------------------

_ASSERTIONS = ("_assert", "sym_constrain", "_guards")


def _read(program: ExportedProgram | Lowered, sig: Signature, axes: Axes) -> tuple[Graph, dict[Value, tuple[str, str]]]:
    specs = {s.arg.name: s for s in program.graph_signature.input_specs if hasattr(s.arg, "name")}
    nodes: list[Node] = []
    inputs: list[Value] = []
    memory: dict[Value, tuple[str, str]] = {}
    values: dict[torch.fx.Node, Value] = {}
    dependent: set[Value] = set()
    for fx in program.graph.nodes:
        if fx.op == "placeholder" and isinstance(specs[fx.name].arg, ConstantArgument):
            continue
        if fx.op == "placeholder":
            spec = specs[fx.name]
            user = spec.kind is InputKind.USER_INPUT
            node = Node(fx.name, "placeholder", Role.INPUT if user else Role.WEIGHT, outputs=_outputs(fx, axes))
            value = values[fx] = Value(fx.name)
            if user:
                inputs.append(value)
                dependent.add(value)
            else:
                memory[value] = ("constant" if spec.kind is InputKind.CONSTANT_TENSOR else "state", str(spec.target))
            nodes.append(node)
        elif fx.op == "call_function" and fx.target is operator.getitem and fx.args[0] in values:
            values[fx] = Value(values[fx.args[0]].node, fx.args[1])
        elif fx.op == "call_function":
            if getattr(fx.target, "__name__", "").startswith(_ASSERTIONS) or "_assert" in str(fx.target):
                continue
            node = _node(fx, values, dependent, axes)
            values[fx] = Value(fx.name)
            nodes.append(node)
        elif fx.op != "output":
            raise TraceError(f"the model has an operation that cannot be traced: {fx.op} {fx.target} at {_source(fx)}")
    if len(inputs) != len(sig.inputs):
        raise TraceError(f"the traced model has {len(inputs)} inputs where {len(sig.inputs)} were given")
    return Graph(tuple(nodes), tuple(inputs), _results(program, values)), memory


def _node(fx: torch.fx.Node, values: Mapping[torch.fx.Node, Value], dependent: set[Value], axes: Axes) -> Node:
    if not isinstance(fx.target, torch._ops.OpOverload) and not _is_scalar(fx):
        raise TraceError(
            f"the model uses {fx.target} at {_source(fx)}, which cannot be followed. "
            "Write it with plain tensor operations."
        )
    leaves, template = pytree.tree_flatten((fx.args, dict(fx.kwargs)))
    operands: list[Value] = []
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, torch.fx.Node):
            operands.append(values[leaf])
            leaves[place] = Operand(len(operands) - 1)
    name, target = _op_name(fx.target), fx.target
    if target is own.CALL:
        target = own.call_of(fx.args[1])
        name = target.name
    if name in roles.RANDOM:
        error = TraceError(
            f"the model draws random numbers in inference: {fx.target} at {_source(fx)}. An explanation must be "
            "repeatable: switch it off in eval mode (F.dropout needs training=self.training)."
        )
        error.callable = False
        raise error
    outputs = _outputs(fx, axes)
    moving = [p for p, value in enumerate(operands) if value in dependent and _floating(fx, values, value)]
    if any(value in dependent for value in operands):
        dependent.update(Value(fx.name, i) for i in range(len(outputs)))
    if moving and name not in roles.SHAPE_ONLY and any(out.differentiable for out in outputs):
        role = roles.role(name, moving, len({operands[place] for place in moving}))
    else:
        role = Role.GATHER if _moves(name, operands, dependent, outputs) else Role.CONSTANT
    function = roles.function(name, role, moving) or _relu(name, fx)
    if function is Function.ADD and "alpha" in fx.kwargs:
        function = Function.NONE
    if target is not fx.target and role is Role.OPAQUE:
        function = Function.OWN_DERIVATIVE
    modules = _modules(fx)
    op = str(target) if target is fx.target else f"{name}.apply"
    return Node(
        fx.name, op, role, tuple(operands), outputs, scope=modules[-1] if modules else "",
        modules=modules, function=function, elementwise=_elementwise(name, fx),
        attributes=replace(
            _attributes(name, function, fx, moving, outputs), locality=_locality(name, fx, axes, outputs),
            relabels=name in roles.RELABELS, repeats=name in roles.REPEATS,
        ), source=_source(fx),
        payload=(target, template, leaves),
    )  # fmt: skip


def _elementwise(name: str, fx: torch.fx.Node) -> bool:
    binary = name in ("max", "min") and len(fx.args) > 1 and isinstance(fx.args[1], torch.fx.Node)
    return roles.elementwise(name) or binary


def _attributes(
    name: str, function: Function, fx: torch.fx.Node, moving: Sequence[int], outputs: Sequence[Output]
) -> Attributes:
    if function in (Function.SOFTMAX, Function.LOG_SOFTMAX):
        axis = fx.kwargs["dim"] if "dim" in fx.kwargs else fx.args[1]
        return Attributes(axis=axis if axis < 0 else axis - len(outputs[0].shape))
    if function is Function.LOG_SUM_EXP:
        given = dict(zip(("", "dim", "keepdim"), fx.args, strict=False)) | dict(fx.kwargs)
        rank = fx.args[0].meta["val"].ndim
        axes = [given["dim"]] if isinstance(given["dim"], int) else list(given["dim"]) or list(range(rank))
        keep = bool(given.get("keepdim", False))
        return Attributes(axis=tuple(axis if axis < 0 else axis - rank for axis in axes), keepdims=keep)
    if not function.weighted:
        return Attributes()
    bias = roles.ADDITIVE.get(name)
    tensors = [arg for arg in pytree.tree_leaves(fx.args) if isinstance(arg, torch.fx.Node)]
    floating = [i for i, arg in enumerate(tensors) if isinstance(arg.meta.get("val"), torch.Tensor)]
    (weight,) = (place for place in floating if place not in moving and place != bias)
    return Attributes(
        weight=weight,
        bias=bias if bias in floating else None,
        contracted=roles.contracted(name, moving, len(fx.kwargs)),
    )


def _locality(name: str, fx: torch.fx.Node, axes: Axes, outputs: Sequence[Output]) -> Locality | None:
    tensors = [leaf for leaf in pytree.tree_leaves((fx.args, dict(fx.kwargs))) if isinstance(leaf, torch.fx.Node)]
    shapes = [_output(leaf.meta.get("val"), axes).shape for leaf in tensors]
    if any(varies(shape) for shape in (*shapes, outputs[0].shape)) or not isinstance(fx.target, torch._ops.OpOverload):
        return None
    return locality(name, fx, shapes, outputs[0].shape)


def _moves(name: str, operands: Sequence[Value], dependent: set[Value], outputs: Sequence[Output]) -> bool:
    """Whether integers that depend on an input index floating-point entries here (an embedding)."""
    return roles.listed(name) is Role.GATHER and outputs[0].floating and any(v in dependent for v in operands)


def _floating(fx: torch.fx.Node, values: Mapping[torch.fx.Node, Value], value: Value) -> bool:
    for operand in fx.all_input_nodes:
        if values[operand] == value:
            kind = operand.meta.get("val")
            return isinstance(kind, torch.Tensor) and (kind.dtype.is_floating_point or kind.dtype.is_complex)
    return False


def _is_scalar(fx: torch.fx.Node) -> bool:
    return isinstance(fx.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool))


def _op_name(target: Any) -> str:
    """Its name as in the tables of roles: prefixed with its library if that is not torch's own."""
    name = str(getattr(target, "__name__", target)).partition(".")[0]
    library = getattr(target, "namespace", "aten")
    if library not in OWN_LIBRARIES:
        return f"{library}::{name}"
    name = name.removesuffix("_") if not name.startswith("_") else name
    return roles.ALIASES.get(name, name)


def _relu(name: str, fx: torch.fx.Node) -> Function:
    """``relu`` for other ways to write it."""
    bounds = (*fx.args[1:], *fx.kwargs.values())
    if name in ("clamp", "clamp_min") and bounds and bounds[0] == 0 and all(b is None for b in bounds[1:]):
        return Function.RELU
    return Function.RELU if name == "threshold" and bounds == (0, 0) else Function.NONE


def _outputs(fx: torch.fx.Node, axes: Axes) -> tuple[Output, ...]:
    val = fx.meta.get("val")
    parts = val if isinstance(val, (tuple, list)) else (val,)
    return tuple(_output(part, axes) for part in parts)


def _output(val: Any, axes: Axes) -> Output:
    if not isinstance(val, torch.Tensor):
        return Output((), "int64", plain=False)
    shape = tuple(map(axes.size, val.shape))
    batch: list[Any] = [given for given, size in zip(val.shape, shape, strict=True) if size is None]
    plain = all(size.node.expr.is_Symbol for size in batch)
    return Output(shape, dtype_name(val.dtype), plain)


def _modules(fx: torch.fx.Node) -> tuple[str, ...]:
    """The modules around a node, outermost first; ``@n`` marks the n-th repeated call of the same module."""
    marked = (fx.meta.get("custom") or {}).get("modules")
    if marked is not None:
        return tuple(marked)
    found = []
    for key, (path, _) in (fx.meta.get("nn_module_stack") or {}).items():
        if path and not path.startswith("_empty_nn_module_stack"):
            found.append(path.partition("@")[0] + "".join(re.findall(r"@\d+$", str(key))))
    return tuple(found)


def _source(fx: torch.fx.Node) -> str:
    found = re.findall(r'File "([^"]+)", line (\d+), in \S+', fx.meta.get("stack_trace") or "")
    own = [f for f in found if not f[0].startswith((*NOT_USERS, "<"))]
    return "{}:{}".format(*own[-1]) if own else ""


def _results(
    program: ExportedProgram | Lowered, values: Mapping[torch.fx.Node, Value]
) -> tuple[tuple[str, Value], ...]:
    by_name = {fx.name: value for fx, value in values.items()}
    user = [s.arg for s in program.graph_signature.output_specs if s.kind is OutputKind.USER_OUTPUT]
    names = [getattr(arg, "name", None) for arg in user]
    tree = pytree.tree_unflatten(list(range(len(names))), program.call_spec.out_spec)
    results = []
    for path, place in pytree.tree_flatten_with_path(tree)[0]:
        name = names[place]
        if name in by_name:
            results.append((".".join(key(part) for part in path) or "0", by_name[name]))
    if not results:
        raise TraceError("the model returns no tensor")
    return tuple(results)


def key(part: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    return str(part)


# --- weights ---------------------------------------------------------------------------------


def bind_weights(model: Any, traced: Traced) -> dict[Value, torch.Tensor]:
    """The model's current weights: the same storage, without gradient."""
    memory, program, dtype = traced.memory
    weights = {}
    for value, (_, path) in memory.items():
        tensor = program.constants[path] if path in program.constants else program.state_dict.get(path)
        if not isinstance(model, ExportedProgram):
            tensor = _attribute(model, path, tensor)
        kind_now = getattr(torch, dtype) if dtype and tensor.dtype.is_floating_point else tensor.dtype
        weights[value] = tensor.detach().to(device=traced.device, dtype=kind_now)
    return weights


def parameters(model: Any, traced: Traced) -> dict[Value, tuple[str, bool]]:
    """The model's own names of its parameters, and whether they are trained."""
    memory, program, _ = traced.memory
    prefix = "model." if isinstance(model, Followed) else ""
    if isinstance(model, ExportedProgram):
        known = {name: program.state_dict[name] for name in model.graph_signature.parameters}
    else:
        known = dict(model.named_parameters(remove_duplicate=False))
    used = {value for node in traced.graph for value in node.inputs}
    found: dict[int, tuple[Value, str, bool]] = {}
    for value, (_, path) in memory.items():
        tensor = known.get(path)
        if tensor is not None and tensor.is_floating_point() and (id(tensor) not in found or value in used):
            found[id(tensor)] = value, path.removeprefix(prefix), bool(tensor.requires_grad)  # once, if it is shared
    return {value: (name, trained) for value, name, trained in found.values()}


def weights_of(model: Any, other: Any, traced: Traced) -> dict[Value, torch.Tensor]:
    """The weights of another module of the same architecture, or of a ``state_dict``, for a trace of ``model``."""
    memory = traced.memory[0]
    if isinstance(other, torch.nn.Module):
        if type(other) is not type(model) or repr(other) != repr(model):
            raise InputError(
                f"the models are not of one architecture: {_short(model)} and {_short(other)}. Compile an explainer "
                "for each"
            )
        state = {
            **dict(other.named_parameters(remove_duplicate=False)),
            **dict(other.named_buffers(remove_duplicate=False)),
        }
    elif isinstance(other, Mapping):
        state = dict(other)
    else:
        raise InputError(
            f"a state is a mapping from names to tensors, such as a state_dict; got {type(other).__name__}"
        )
    own = bind_weights(model, traced)
    known = {path for kind, path in memory.values() if kind == "state"}
    found, missing = {}, []
    for value, (kind, path) in memory.items():
        if kind == "constant" and path not in state:
            found[value] = own[value]
            continue
        if path not in state:
            missing.append(path)
            continue
        tensor = torch.as_tensor(state[path]).detach()
        if tensor.shape != own[value].shape:
            raise InputError(
                f"weight {path!r} has shape {tuple(tensor.shape)}, and the model's {tuple(own[value].shape)}"
            )
        found[value] = tensor.to(device=own[value].device, dtype=own[value].dtype)
    needed = [path for path in missing if path in known]
    if needed:
        raise InputError(f"a state lacks the weights {needed[:4]}; it has {list(state)[:4]}")
    return found


def _short(model: Any) -> str:
    text = " ".join(repr(model).split())
    return text if len(text) <= 200 else f"{text[:200]} …"


def _attribute(model: Any, path: str, default: torch.Tensor) -> torch.Tensor:
    parts = path.split(".")
    if isinstance(parts, list) and parts[0] == "model" and of_keras(model):
        parts = parts[1:]
    here = model
    for part in parts:
        here = getattr(here, part, None)
        if here is None:
            return default
    return here if isinstance(here, torch.Tensor) else default
