"""Compiled torch programs as data: a list of operations, ``program.json``, and their tensors, ``tensors.safetensors``.

Nothing of such a file is executed when it is loaded. Every entry is read as one of a few kinds, an operation must be
one that computes its result from its operands and does nothing else, and the kernel is built from what was read by the
code that builds it from a trace::

    {"programs": {"explain": {"arguments": 3,
                              "nodes": [["aten.mul.Tensor", [{"argument": 0}, {"tensor": "t0"}], {}], …],
                              "results": [{"node": 7}]}, …},
     "tensors": {"t0": [9, 3, 1], …}}

The numbers of a tensor are the strides that it was traced with, on which the rounding of convolutions depends.
"""

from __future__ import annotations

import json
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, fx

from explainers.backend import DATA, Runnable, Size, Traced
from explainers.errors import ArtifactError
from explainers.file.container import decoding, parsed
from explainers.graph import Graph, Value
from explainers.spec import Signature

from . import kernel, recurrent, script
from .trace import _TRACING

PROGRAM, TENSORS = "program.json", "tensors.safetensors"
MOST = 200_000  # nodes and arguments of a program
DEEPEST = 4  # lists in lists among the arguments of an operation
_TORCH = re.compile(rf"(aten|{recurrent.NAMESPACE})\.([A-Za-z_]\w*)\.(\w+)", re.ASCII)
_OF_SIZES: dict[str, Callable[..., Any]] = {
    f"size.{function.__name__}": function for function in (operator.getitem, *script.OF_SIZES)
}
_NAMES = {function: name for name, function in _OF_SIZES.items()}
_KINDS: dict[str, type[Any]] = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}
# Besides derivatives, and those that torch counts among its core or its pointwise operations.
_NAMES_OF_MORE = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _cdist_forward _conj _fft_c2c _fft_c2r _fft_r2c _log_softmax
    _safe_softmax _scaled_dot_product_cudnn_attention _scaled_dot_product_efficient_attention
    _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu _softmax _unsafe_index
    _unsafe_index_put _unsafe_masked_index _unsafe_view _weight_norm_interface adaptive_max_pool2d
    adaptive_max_pool3d addbmm addmv addr all aminmax any arange argsort baddbmm bincount bucketize chunk complex
    cov cross cummax cummin cumprod cumsum detach diag_embed diagonal_scatter diff dot einsum expand_as eye fft_fft
    fft_ifft flatten floor_divide gru hann_window histc im2col index_add index_copy index_fill index_reduce isin
    kron kthvalue lift_fresh_copy linalg_cross linalg_det linalg_inv linalg_matrix_norm linalg_solve
    linalg_vector_norm linear linspace logcumsumexp logspace logsumexp lstm masked_select matmul max median min mode
    movedim msort mv nanmedian nansum narrow new_full new_ones new_zeros nll_loss_forward norm ones ones_like
    one_hot outer pixel_shuffle pixel_unshuffle polar prod renorm repeat_interleave reshape resolve_conj resolve_neg
    rnn_relu rnn_tanh roll rot90 scatter_reduce searchsorted softmax split split_copy stack std std_mean sum t take
    take_along_dim tensor_split tensordot tile trace transpose trapezoid tril tril_indices triu triu_indices unbind
    unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d vander var
    var_mean vdot view_as view_as_complex view_as_real zeros zeros_like
"""
_MORE = frozenset(_NAMES_OF_MORE.split())
_DERIVATIVE = re.compile(r"\w+_backward(_data|_jvp)?")
_UNWRITTEN = re.compile("(new_)?empty(_like|_strided|_permuted)?")  # whose results hold what was in memory before


def allowed(operation: torch._ops.OpOverload) -> bool:
    """Whether an operation may stand in a file: it computes its result from its operands, and does nothing else."""
    name = operation._opname
    if operation.namespace == recurrent.NAMESPACE:
        return True
    if operation.namespace != "aten" or operation._schema.is_mutable or _UNWRITTEN.fullmatch(name):
        return False
    known = name in _MORE or _DERIVATIVE.fullmatch(name) is not None
    return known or bool({torch.Tag.core, torch.Tag.pointwise} & {*operation.tags})


# --- writing ---------------------------------------------------------------------------------


def save(parts: Mapping[str, tuple[Runnable, Any]], traced: Traced) -> dict[str, bytes]:
    """The programs as files, by name.

    Raises
    ------
    ArtifactError: an operation that may not stand in a file.
    """
    tensors = _Tensors()
    with _TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        programs = {
            name: _Writer(name, traced.device, tensors).of(program, traced) for name, (program, _) in parts.items()
        }
    strides = {name: list(tensor.stride()) for name, tensor in tensors.by_name.items()}
    # Tensors in a file must not share storage.
    stored = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.by_name.items()}
    text = json.dumps({"programs": programs, "tensors": strides}, separators=(",", ":"), allow_nan=False)
    return {PROGRAM: text.encode(), TENSORS: safetensors.torch.save(stored)}


class _Tensors:
    """The tensors of all programs, each once."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}

    def name(self, tensor: Tensor) -> str:
        name = self._names.setdefault(id(tensor), f"t{len(self._names)}")
        self.by_name[name] = tensor
        return name


class _Writer:
    """A program as JSON."""

    def __init__(self, name: str, device: torch.device, tensors: _Tensors) -> None:
        self.name, self.device, self.tensors = name, device, tensors
        self.places: dict[fx.Node, dict[str, Any]] = {}

    def of(self, program: Runnable, traced: Traced) -> dict[str, Any]:
        graph, constants, _ = kernel.recorded(program, traced, None)
        arguments = 0
        nodes: list[Any] = []
        for node in graph.nodes:
            if node.op == "placeholder":
                self.places[node] = {"argument": arguments}
                arguments += 1
            elif node.op == "get_attr":
                self.places[node] = {"tensor": self.tensors.name(constants[str(node.target)])}
            elif node.op == "call_function":
                self.places[node] = {"node": len(nodes)}
                kwargs = {key: self._written(value) for key, value in node.kwargs.items()}
                nodes.append([self._operation(node.target), [self._written(value) for value in node.args], kwargs])
        results = [self._written(value) for value in graph.output_node().args[0]]  # type: ignore[union-attr]
        return {"arguments": arguments, "nodes": nodes, "results": results}

    def _operation(self, target: Any) -> str:
        if target in _NAMES:
            return _NAMES[target]
        if isinstance(target, torch._ops.OpOverload) and allowed(target):
            return f"{target.namespace}.{target._opname}.{target._overloadname}"
        raise ArtifactError(
            f"its program {self.name!r} uses {target}; as data, a program may hold only operations of torch that do "
            "nothing but compute. Save it with program='code'."
        )

    def _written(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.places[value]
        if isinstance(value, (list, tuple)):
            parts = [self._written(part) for part in value]
            return parts if isinstance(value, list) else {"tuple": parts}
        if isinstance(value, torch.device):
            return {"device": "model" if value.type == self.device.type else "cpu"}
        if isinstance(value, complex):
            return {"complex": [repr(value.real), repr(value.imag)]}
        if isinstance(value, float):  # also infinite ones, which JSON does not have
            return {"float": repr(value)}
        for name, kind in _KINDS.items():
            if isinstance(value, kind):
                return {name: str(value).removeprefix("torch.")}
        if value is None or isinstance(value, (bool, int, str)):
            return value
        raise ArtifactError(
            f"its program {self.name!r} has an argument of type {type(value).__name__}, which cannot be written as "
            "data. Save it with program='code'."
        )


# --- reading ---------------------------------------------------------------------------------


class Data:
    """Programs that were read, as kernels of an engine. Static engines compile a size at its first use."""

    ahead = False
    form = DATA

    def __init__(
        self, files: Mapping[str, bytes], engine: str, device: torch.device, parts: Mapping[str, Sequence[Any]]
    ) -> None:
        self.content, self.engine, self.device, self.parts = dict(files), engine, device, parts
        told = parsed(files[PROGRAM], PROGRAM)
        with decoding(PROGRAM):
            self.tensors = _tensors(files[TENSORS], told["tensors"], device)
            self.programs = {name: _Program(told["programs"][name], self.tensors, device) for name in parts}
        for name, program in self.programs.items():
            program.check(name, len(parts[name]))
        self.general = {name: self._general(name) for name in parts}  # now, so that errors are found now

    def _general(self, part: str) -> kernel.TorchKernel:
        """The kernel for any number of rows."""
        graph = self.programs[part].graph(self.engine in kernel.STATIC)
        if self.engine in kernel.STATIC:
            return kernel.WeightsFirst(fx.GraphModule({}, graph), self._weights())
        with _TRACING, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated
            return kernel.TorchKernel(kernel.native(graph, self.tensors, self.engine), {})

    def _weights(self) -> dict[Value, Tensor]:
        return {Value(name): tensor for name, tensor in self.tensors.items()}

    def kernel(self, part: str, rows: Size) -> kernel.TorchKernel:
        general = self.general[part]
        if rows is None or self.engine not in kernel.STATIC:
            return general
        traced = Traced(Graph((), (), ()), Signature((), 0), self._weights(), device=self.device)
        return kernel.compile(kernel.Flat(general.native, self.parts[part]), traced, self.engine, rows)

    def files(self) -> dict[str, bytes]:
        return self.content


def _tensors(content: bytes, strides: Any, device: torch.device) -> dict[str, Tensor]:
    try:
        found = safetensors.torch.load(content)
    except Exception as error:  # safetensors has errors of its own
        raise ArtifactError(f"{TENSORS} cannot be read: {error}") from error
    if not isinstance(strides, dict) or set(strides) != set(found):
        raise ArtifactError(f"{PROGRAM} lists other tensors than {TENSORS} holds")
    return {name: _laid_out(found[name].to(device), strides[name]) for name in sorted(found)}


def _laid_out(tensor: Tensor, strides: Sequence[int]) -> Tensor:
    """The tensor, with its axes in memory in the order that ``strides`` tell."""
    if len(strides) != tensor.dim() or not all(type(step) is int and 0 <= step < 2**63 for step in strides):
        raise ArtifactError(f"a tensor of {tensor.dim()} axes has the strides {strides}")
    order = sorted(range(tensor.dim()), key=lambda axis: -strides[axis])
    return tensor.permute(order).contiguous().permute([order.index(axis) for axis in range(tensor.dim())])


class _Program:
    """A program that was read and checked, from which graphs are made."""

    def __init__(self, told: Any, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.arguments, self.tensors, self.device = told["arguments"], tensors, device
        nodes = told["nodes"]
        if not all(isinstance(entry, list) for entry in (nodes, told["results"])) or len(nodes) > MOST:
            raise ArtifactError(f"{PROGRAM} has a program whose nodes are not a list of at most {MOST}")
        self.nodes = [_Node.of(node) for node in nodes]
        self.results = told["results"]

    def check(self, name: str, arguments: int) -> None:
        if self.arguments is True or self.arguments != arguments:
            raise ArtifactError(
                f"its program {name!r} takes {self.arguments} arguments; the manifest lists {arguments}"
            )

    def graph(self, tensors_first: bool) -> fx.Graph:
        """The program as a graph, to which tensors are attributes, or the first arguments."""
        graph = fx.Graph()
        read = _Reader(graph, self.device)
        if tensors_first:
            read.tensors = {name: graph.placeholder(name) for name in self.tensors}
        read.arguments = [graph.placeholder(f"arg_{place}") for place in range(self.arguments)]
        if not tensors_first:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the module with the attributes is made later
                read.tensors = {name: graph.get_attr(name) for name in self.tensors}
        with decoding(PROGRAM):
            for node in self.nodes:
                args = tuple(read(value) for value in node.args)
                kwargs = {key: read(value) for key, value in node.kwargs.items()}
                read.nodes.append(graph.call_function(node.operation, args, kwargs))
            graph.output(tuple(read(value) for value in self.results))
        for holder in read.tensors.values():
            if holder.op == "get_attr" and not holder.users:
                graph.erase_node(holder)
        return graph


@dataclass(frozen=True)
class _Node:
    """An operation with its arguments as they are written."""

    operation: Any
    args: list[Any]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, told: Any) -> _Node:
        name, args, kwargs = told
        operation = _operation(name)
        if not isinstance(args, list) or not isinstance(kwargs, dict) or not kwargs.keys() <= _keywords(operation):
            raise ArtifactError(f"{PROGRAM} gives {name!r} arguments that it does not take")
        return cls(operation, args, kwargs)


def _keywords(operation: Any) -> set[str]:
    schema = getattr(operation, "_schema", None)
    return {argument.name for argument in schema.arguments} if schema is not None else set()


def _operation(name: Any) -> Any:
    if not isinstance(name, str):
        raise ArtifactError(f"{PROGRAM} has {name!r:.100} for an operation")
    if name in _OF_SIZES:
        return _OF_SIZES[name]
    known = _TORCH.fullmatch(name)
    packet = getattr(getattr(torch.ops, known[1]), known[2], None) if known else None
    operation = getattr(packet, known[3], None) if known else None
    if isinstance(operation, torch._ops.OpOverload) and allowed(operation):
        return operation
    raise ArtifactError(f"{name!r:.100} is no operation that a program may hold as data")


class _Reader:
    """Turns what was written for an argument back into it."""

    def __init__(self, graph: fx.Graph, device: torch.device) -> None:
        self.graph, self.device = graph, device
        self.tensors: dict[str, fx.Node] = {}
        self.arguments: list[fx.Node] = []
        self.nodes: list[fx.Node] = []

    def __call__(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, list) and depth < DEEPEST:
            return [self(part, depth + 1) for part in value]
        if value is None or isinstance(value, (bool, str)) or (isinstance(value, int) and -(2**63) <= value < 2**63):
            return value
        if isinstance(value, dict) and len(value) == 1:
            ((kind, told),) = value.items()
            return self._of(kind, told, depth)
        raise ArtifactError(f"{PROGRAM} has the argument {value!r:.100}, which is of no kind that it may hold")

    def _of(self, kind: str, told: Any, depth: int) -> Any:
        if kind in ("argument", "node") and type(told) is int and told >= 0:
            return (self.arguments if kind == "argument" else self.nodes)[told]
        if kind == "tensor":
            return self.tensors[told]
        if kind == "tuple" and isinstance(told, list):
            return tuple(self(told, depth))
        if kind == "float" and isinstance(told, str):
            return float(told)
        if kind == "complex":
            real, imaginary = told
            return complex(float(real), float(imaginary))
        if kind == "device" and told in ("model", "cpu"):
            return self.device if told == "model" else torch.device("cpu")
        found = getattr(torch, told, None) if kind in _KINDS and isinstance(told, str) else None
        if found is not None and isinstance(found, _KINDS[kind]):
            return found
        raise ArtifactError(f"{PROGRAM} has the argument {kind}={told!r:.100}, which is of no kind that it may hold")
