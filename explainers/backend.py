"""The Backend protocol, and the lookup of installed backends.

A backend is a package with an entry point in the group ``explainers.backends`` that names an
object of this protocol. Nothing else is needed: methods and rules are written once, over ``ops``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np

from .errors import ArtifactError, BackendMissing, InputError, UnknownNameError, UnsupportedOperation
from .graph import Graph, Value
from .ops import Ops
from .spec import Array, Numpy, Signature

GROUP = "explainers.backends"
WARM_RUNS = 3  # of a kernel: TorchScript specializes in its first ones, and later ones give equal bits
CPU_CACHE = 32 * 2**20  # bytes of activations that convolutions on CPUs run fastest with
CODE, DATA = FORMS = ("code", "data")  # of programs in files
CALLED = (  # why such an explainer has no file
    "engine='eager' calls the model as it is, and a file holds compiled programs, which need no source of the model. "
    "Compile it with engine='auto' to save it; a model that cannot be traced is compiled anew where it is needed."
)
Change = Callable[[Sequence[Array]], Sequence[Array]]  # of a model's inputs, in the signature's order
Size = int | tuple[int, int] | None  # of a kernel's leading axes: all the same, (samples, baselines), or any


class Runnable(Protocol):
    """What a backend compiles: see :class:`explainers.program.Program`."""

    @property
    def placeholders(self) -> Sequence[Any]: ...

    def __call__(self, ops: Ops, weights: Mapping[Value, Array], *arguments: Array) -> tuple[Array, ...]: ...


@dataclass
class Traced:
    """A model as a graph, with its weights (shared with the model) and the backend's own state."""

    graph: Graph
    signature: Signature
    weights: dict[Value, Array]
    device: Any = None
    memory: Any = None


class Kernel(Protocol):
    """A compiled program. ``native`` is the framework's own callable."""

    native: Any

    def __call__(self, *arguments: Array) -> tuple[Array, ...]: ...

    def bind(self, weights: dict[Value, Array]) -> None:
        """Use these weights from now on."""


@dataclass(frozen=True)
class TokenModel:
    """A causal language model as a model of log-probabilities.

    ``model``: of ids (N, L), positions (N, T) and chosen ids (N, T), all int64; returns (N, T), log p of each chosen
    token given the ids up to its position, that included. ``vocabulary``: V, of the logits. ``layers``: paths of the
    model's layers;
    ``embeddings``: of those that may embed ids, only one if it is known which; all start with ``prefix``.
    ``embed``: a layer's output (n, D) for ids (n,), as numpy. ``generate``: ids (P,) and a number of tokens → the ids
    of the most probable continuation. ``rows``: of the embedding table. ``context``: the longest sequence. The last
    four are None where the model does not have them.
    """

    model: Any
    vocabulary: int
    layers: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    prefix: str = ""
    embed: Callable[[str, Numpy], Numpy] | None = None
    generate: Callable[[Numpy, int], Numpy] | None = None
    rows: int | None = None
    context: int | None = None


class Loaded(Protocol):
    """Compiled programs loaded from a file. ``device``: the device they run on, as in :class:`Traced`.

    ``ahead``: whether they were compiled ahead of time, for any number of rows, on any engine. ``form``: of FORMS.
    """

    device: Any
    form: str

    @property
    def ahead(self) -> bool: ...

    def kernel(self, part: str, rows: Size) -> Kernel:
        """The program ``part``, for any number of rows, or for exactly ``rows`` on a static engine."""

    def files(self) -> dict[str, bytes]:
        """The files that it was loaded from."""


class Models(Protocol):
    """The part of a backend that recognizes, opens and traces models."""

    name: str
    forward_only: bool  # its models can only be called
    has_threads: bool  # of its own, without which a forked process waits forever
    channel_axis: int  # of a sample of a layer of images, as the framework has it by default
    takes_lengths: bool  # whether axes besides the batch may vary from call to call
    calls: bool  # whether models are called as they are, and not traced

    def installed(self) -> bool:
        """Whether the framework can be imported; does not import it."""

    @property
    def calling(self) -> Backend | None:
        """This backend for methods that only call the model: engine ``"eager"``, ``calls``, and no trace.

        None if it has no such form.
        """

    def accepts(self, model: Any) -> bool:
        """Whether ``model`` is of this framework; does not import it."""

    def opened(self, model: Any) -> Any:
        """``model`` itself; for a path, the model saved there."""

    def signature(self, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature | None:
        """The model's inputs, from example arrays or specs; without any, from the model itself if it declares them."""

    def trace(
        self, model: Any, signature: Signature, *, device: Any, dtype: str | None, examples: Sequence[Any] = (),
        elementary: bool = False, kept: dict[Any, Any] | None = None,
    ) -> Traced:  # fmt: skip
        """The model in inference mode as a graph; the model is unchanged. ``examples``: example inputs, if any.

        ``elementary``: take composite operations (norms, attention, recurrent layers) apart. ``kept``: where the
        backend may keep what a further trace can start from. Such traces are of the same model, unchanged in between,
        with the same signature, device and dtype; the caller drops ``kept`` after the last one.
        """

    def token_model(self, model: Any, *, derivative: bool) -> TokenModel:
        """A causal language model as a model of the log-probabilities of given tokens; the model is unchanged.

        ``derivative``: whether only its values and derivatives matter, not the operations that rules pass.

        Raises
        ------
        InputError: it does not return logits (N, L, V). UnsupportedOperation: the backend has no language models.
        """

    def refresh(self, model: Any, traced: Traced) -> dict[Value, Array]:
        """The model's weights as they are now."""

    def preceded(self, model: Any, signature: Signature, change: Change) -> Any:
        """A model x ↦ model(change(x)) that takes the inputs of ``signature`` one after the other."""

    def followed(self, model: Any, signature: Signature, loss: Callable[[Any, Any], Any]) -> Any:
        """A model (x, y) ↦ loss(model(x), y) that takes the inputs of ``signature`` one after the other, and y."""

    def parameters(self, model: Any, traced: Traced) -> dict[Value, tuple[str, bool]]:
        """The model's floating-point weights: their names in it, and whether they are trained."""

    def weights_of(self, model: Any, other: Any, traced: Traced) -> dict[Value, Array]:
        """The weights of another model of the same architecture, or a state of it by names, for a trace of ``model``.

        Raises
        ------
        InputError: another architecture, or weights with other names or shapes.
        """

    def version(self, weights: Mapping[Value, Array]) -> Any:
        """A value that changes when a weight is written to; a constant if the framework cannot detect writes."""


class Compiler(Protocol):
    """The part of a backend that compiles programs into kernels."""

    engines: Mapping[str, bool]  # engine → whether its shapes are static
    default_engine: str
    largest_package: int  # rows that a package has at most, unless the caller says more

    @property
    def ops(self) -> Ops:
        """The namespace that methods and rules are written over, for arrays of this framework."""

    def neutral(self) -> AbstractContextManager[Any]:
        """A context in the framework's default state: derivatives on, no mixed precision, float32 and CPU."""

    def compile(self, program: Runnable, traced: Traced, *, engine: str, rows: Size) -> Kernel:
        """One kernel: for any number of rows, or for exactly ``rows`` on a static engine."""

    def free_bytes(self, device: Any) -> int:
        """Free memory on the device, in bytes."""

    def cache_bytes(self, device: Any) -> int | None:
        """Size of the processor cache that packages of small rows should fit in; None if the cache does not matter."""

    def is_out_of_memory(self, error: BaseException) -> bool: ...


class Arrays(Protocol):
    """Operations on arrays outside kernels: to the device, between packages, and back to the caller."""

    def owns(self, array: Any) -> bool:
        """Whether ``array`` is of this framework; does not import it."""

    def stage(self, array: Any, dtype: str, device: Any) -> Array:
        """A numpy array, or one of the framework (see ``owns``), as the kernel takes it, on the device."""

    def read(self, weight: Any) -> Array:
        """The current value of a weight, as an array."""

    def copied(self, weight: Any) -> Any:
        """A weight of its own with the same value, which kernels can be compiled for."""

    def write(self, weight: Any, value: Numpy) -> None:
        """Set a weight from :meth:`copied`, in place."""

    def take(self, array: Array, index: Numpy) -> Array:
        """The rows ``index`` of ``array``."""

    def concat(self, arrays: Sequence[Array]) -> Array:
        """The rows of all the arrays, one after the other."""

    def pad(self, array: Array, count: int) -> Array:
        """``array`` with its first row repeated at the end until it has ``count`` rows."""

    def first(self, array: Array, count: int) -> Array:
        """The first ``count`` rows of ``array``."""

    def expand(self, array: Array, count: int) -> Array:
        """The only row of ``array`` as ``count`` rows."""

    def numpy(self, array: Array) -> Numpy:
        """An array of this framework as numpy."""

    def like(self, array: Any, given: Any) -> Any:
        """``array`` (numpy or this framework's own) with the type, dtype and device of ``given``, which it owns."""

    def view(self, array: Array) -> Numpy | None:
        """The array's own memory as numpy, quickly; None where numpy cannot look at it."""

    def finite(self, array: Array) -> bool:
        """Whether every entry is finite."""

    def device_name(self, device: Any) -> str:
        """A device as text, as :meth:`Files.load` takes it; "" for the framework's choice."""


class Files(Protocol):
    """The part of a backend that saves and loads compiled programs."""

    files: bool  # whether explanations of its models have a file form
    forms: tuple[str, ...]  # of FORMS, those that its programs can have in a file
    ahead: tuple[str, ...]  # engines whose programs can be compiled when they are saved

    def save(
        self, parts: Mapping[str, tuple[Runnable, Kernel | None]], traced: Traced, *, engine: str, form: str = CODE
    ) -> dict[str, bytes]:
        """Programs as files, by name: none of them a pickle of this library's, and sizes of leading axes open.

        ``parts``: by name, with the kernel for any size where there is one. ``form``: one of ``forms``; loading
        programs of the form ``"data"`` executes nothing that a file holds.

        Raises
        ------
        ArtifactError: a model that has no file form, or not this one.
        """

    def compile_ahead(self, files: Mapping[str, bytes], *, device: str) -> dict[str, bytes]:
        """The files from ``save`` for an engine in ``ahead``, plus programs compiled for this machine.

        Raises
        ------
        ArtifactError: the machine has no compiler, or the compiler rejects the program.
        """

    def load(
        self, files: Mapping[str, bytes], *, engine: str, device: str, parts: Mapping[str, Sequence[Any]],
        form: str = CODE,
    ) -> Loaded:  # fmt: skip
        """Load the files from ``save`` on ``device``; the caller has checked names, sizes and checksums.

        ``parts``: the placeholders of each program. ``form``: the only one that may be loaded.

        Raises
        ------
        ArtifactError: a program is missing, takes another number of arguments, or has another form.
        """

    def code(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """The text of the programs in files from ``save``, by name, read as data: nothing is run.

        Raises
        ------
        ArtifactError: what cannot be read.
        """

    def versions(self) -> dict[str, str]:
        """The versions of the framework's packages, by package name."""


class Backend(Models, Compiler, Arrays, Files, Protocol):
    """Everything a backend must implement. :class:`BackendDefaults` has common defaults."""


class BackendDefaults:
    """Defaults for a backend that has no file form, a single device, and weights that do not change."""

    forward_only = False
    has_threads = True
    channel_axis = 0
    takes_lengths = False
    calls = False
    largest_package = 1024
    files = False
    forms: tuple[str, ...] = (CODE,)
    ahead: tuple[str, ...] = ()

    @property
    def calling(self) -> Backend | None:
        return None

    def installed(self) -> bool:
        return True

    def opened(self, model: Any) -> Any:
        return model

    def token_model(self, model: Any, *, derivative: bool) -> TokenModel:
        raise UnsupportedOperation(
            f"a {type(model).__module__}.{type(model).__qualname__} cannot be explained as a language model: give a "
            "torch.nn.Module, or a function of ids (N, L) that returns logits (N, L, V)"
        )

    def refresh(self, model: Any, traced: Traced) -> dict[Value, Array]:
        return dict(traced.weights)

    def preceded(self, model: Any, signature: Signature, change: Change) -> Any:
        def changed(*arrays: Array) -> Any:
            args, kwargs = signature.call(change(arrays))
            return model(*args, **kwargs)

        return changed

    def followed(self, model: Any, signature: Signature, loss: Callable[[Any, Any], Any]) -> Any:
        def followed(*arrays: Array) -> Any:
            args, kwargs = signature.call(arrays[:-1])
            return loss(model(*args, **kwargs), arrays[-1])

        return followed

    def parameters(self, model: Any, traced: Traced) -> dict[Value, tuple[str, bool]]:
        return {}

    def weights_of(self, model: Any, other: Any, traced: Traced) -> dict[Value, Array]:
        raise UnsupportedOperation("models that are called as they are have no weights that could be another model's")

    def version(self, weights: Mapping[Value, Array]) -> Any:
        return 0

    def neutral(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def free_bytes(self, device: Any) -> int:
        import psutil  # importing this library stays quick

        return int(psutil.virtual_memory().available)

    def cache_bytes(self, device: Any) -> int | None:
        return CPU_CACHE

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError)

    def read(self, weight: Any) -> Array:
        return weight

    def copied(self, weight: Any) -> Any:
        raise UnsupportedOperation("models that are called as they are have no weights that could be set")

    def write(self, weight: Any, value: Numpy) -> None:
        raise UnsupportedOperation("models that are called as they are have no weights that could be set")

    def take(self, array: Array, index: Numpy) -> Array:
        return array[index]

    def first(self, array: Array, count: int) -> Array:
        return array[:count]

    def view(self, array: Array) -> Numpy | None:
        return None

    def device_name(self, device: Any) -> str:
        return ""

    def save(
        self, parts: Mapping[str, tuple[Runnable, Kernel | None]], traced: Traced, *, engine: str, form: str = CODE
    ) -> dict[str, bytes]:
        raise ArtifactError("explanations of its models have no file form in this backend")

    def compile_ahead(self, files: Mapping[str, bytes], *, device: str) -> dict[str, bytes]:
        raise ArtifactError("this backend has no engine that compiles ahead of time")

    def load(
        self, files: Mapping[str, bytes], *, engine: str, device: str, parts: Mapping[str, Sequence[Any]],
        form: str = CODE,
    ) -> Loaded:  # fmt: skip
        raise ArtifactError("this backend writes no files, so that this one was made by something else")

    def code(self, files: Mapping[str, bytes]) -> dict[str, str]:
        raise ArtifactError("this backend writes no files, so that this one was made by something else")

    def versions(self) -> dict[str, str]:
        return {}


def on_host(backend: Backend, array: Any) -> Numpy:
    """``array``, of numpy or of the backend's framework, as numpy."""
    return array if isinstance(array, np.ndarray) else backend.numpy(array)


def device_name(backend: Backend, device: Any) -> str:
    """:meth:`Backend.device_name`. Raises InputError for a device that the framework does not know."""
    try:
        return backend.device_name(device)
    except Exception as error:  # each framework has its own
        raise InputError(f"there is no device {str(device)!r} for {backend.name}: {error}") from error


@lru_cache(maxsize=1)
def backends() -> dict[str, Backend]:
    """Every installed backend by name, forward-only ones last; imports no framework."""
    backend_objects: list[Backend] = [point.load() for point in entry_points(group=GROUP)]
    return {backend.name: backend for backend in sorted(backend_objects, key=lambda b: (b.forward_only, b.name))}


def named(name: str) -> Backend:
    installed_backends = backends()
    if name not in installed_backends:
        raise UnknownNameError.among("backend", name, installed_backends)
    if not installed_backends[name].installed():
        raise BackendMissing(f"backend {name!r} needs {name}, which is not installed: pip install 'explainers[{name}]'")
    return installed_backends[name]


def find(model: Any, name: str | None) -> Backend:
    """The backend for ``model``: by name, or the first that accepts it."""
    if name is not None:
        return named(name)
    for backend in backends().values():
        if backend.accepts(model):
            return named(backend.name)
    advice = ""
    for method in ("predict_proba", "predict", "decision_function"):
        if hasattr(model, method):
            advice = f" Give the function that maps inputs to outputs, e.g. model.{method}."
            break
    raise InputError(
        f"no backend takes a model of type {type(model).__module__}.{type(model).__qualname__}. Give a "
        "torch.nn.Module, torch.export.ExportedProgram, Keras model, tf.Module, tf.function, the folder of a "
        f"SavedModel, or any callable from arrays to an array.{advice}"
    )


def owner(array: Any) -> Backend | None:
    """The backend whose framework made ``array``; None for numpy and everything else."""
    module = type(array).__module__.partition(".")[0]
    if module in ("numpy", "builtins") or module not in sys.modules:
        return None
    return next((backend for backend in backends().values() if backend.owns(array)), None)
