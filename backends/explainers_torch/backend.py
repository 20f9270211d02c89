"""The backend object for torch, which is imported at first use."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from explainers.backend import (
    CALLED,
    CODE,
    CPU_CACHE,
    FORMS,
    Backend,
    BackendDefaults,
    Change,
    Kernel,
    Loaded,
    Runnable,
    Size,
    TokenModel,
    Traced,
)
from explainers.errors import ArtifactError, InputError
from explainers.graph import Value
from explainers.ops import Ops
from explainers.spec import Numpy, Signature, all_finite

_NOTHING = nullcontext()


@lru_cache(maxsize=256)
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a plain array of this shape."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def of_keras(model: Any) -> bool:
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.layers.Layer)


class TorchBackend(BackendDefaults):
    name = "torch"
    engines: Mapping[str, bool] = {"torchscript": False, "inductor": True, "cudagraphs": True, "eager": False}
    takes_lengths = True
    default_engine = "torchscript"
    ahead: tuple[str, ...] = ("inductor",)
    files = True
    forms: tuple[str, ...] = FORMS

    @property
    def calling(self) -> Backend:
        return CALLS

    @cached_property
    def torch(self) -> Any:
        import torch

        return torch

    @cached_property
    def kinds(self) -> dict[str, Any]:
        names = ("float32", "float64", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
        return {name: getattr(self.torch, name) for name in names}

    def installed(self) -> bool:
        return "torch" in sys.modules or importlib.util.find_spec("torch") is not None

    def accepts(self, model: Any) -> bool:
        if isinstance(model, (str, os.PathLike)):
            return os.fspath(model).endswith(".pt2")
        torch = sys.modules.get("torch")
        if torch is None:
            return False
        export = sys.modules.get("torch.export")
        return isinstance(model, torch.nn.Module) or (export is not None and isinstance(model, export.ExportedProgram))

    def opened(self, model: Any) -> Any:
        if not isinstance(model, (str, os.PathLike)):
            return model if self.accepts(model) or of_keras(model) else self._function(model)
        if os.fspath(model).endswith(".keras"):
            return self._keras_model(model)
        import torch.export

        return torch.export.load(model)

    def _function(self, model: Any) -> Any:
        if not callable(model):
            raise InputError(
                f"a {type(model).__module__}.{type(model).__qualname__} is not a torch model: give a torch.nn.Module, "
                "an ExportedProgram, or a function of tensors"
            )
        from .functions import FunctionModule

        return FunctionModule(model)

    def _keras_model(self, path: Any) -> Any:
        import keras

        if keras.backend.backend() != "torch":
            raise InputError(
                f"Keras runs on {keras.backend.backend()!r} in this process, so {os.fspath(path)!r} cannot be loaded "
                "for torch. Set KERAS_BACKEND=torch before Keras is imported."
            )
        return keras.saving.load_model(path)

    def neutral(self) -> AbstractContextManager[Any]:
        derivatives, inference, autocast, dtype, functions, default = self._modes
        if derivatives() and dtype() is default and not (inference() or autocast() or functions()):
            return _NOTHING
        return self._neutral()

    @cached_property
    def _modes(self) -> tuple[Any, ...]:
        """What tells torch's modes, and the default dtype: looking them up takes as long as a small operation."""
        torch = self.torch
        return (
            torch.is_grad_enabled, torch.is_inference_mode_enabled, torch._C._is_any_autocast_enabled,
            torch.get_default_dtype, torch._C._len_torch_function_stack, torch.float32,
        )  # fmt: skip

    @contextmanager
    def _neutral(self) -> Iterator[None]:
        torch = self.torch
        default = torch.get_default_dtype()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            for kind in ("cpu", "cuda"):
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            if default is not torch.float32:
                torch.set_default_dtype(torch.float32)
                stack.callback(torch.set_default_dtype, default)
            yield

    def owns(self, array: Any) -> bool:
        torch = sys.modules.get("torch")
        return torch is not None and isinstance(array, torch.Tensor)

    def signature(self, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature | None:
        from . import trace

        return trace.signature(model, args, kwargs)

    def trace(
        self, model: Any, signature: Signature, *, device: Any, dtype: str | None, examples: Sequence[Any] = (),
        elementary: bool = False, kept: dict[Any, Any] | None = None,
    ) -> Traced:  # fmt: skip
        from . import trace

        return trace.trace(model, signature, device, dtype, elementary, kept)

    def token_model(self, model: Any, *, derivative: bool) -> TokenModel:
        from . import language

        return language.token_model(model, derivative)

    def refresh(self, model: Any, traced: Traced) -> dict[Value, Any]:
        from . import trace

        return trace.bind_weights(model, traced)

    def compile(self, program: Runnable, traced: Traced, *, engine: str, rows: Size) -> Kernel:
        from . import kernel

        return kernel.compile(program, traced, engine, rows)

    def save(
        self, parts: Mapping[str, tuple[Runnable, Kernel | None]], traced: Traced, *, engine: str, form: str = CODE
    ) -> dict[str, bytes]:
        from . import artifact

        return artifact.save(parts, traced, engine, form)

    def compile_ahead(self, files: Mapping[str, bytes], *, device: str) -> dict[str, bytes]:
        from . import artifact

        return artifact.compile_ahead(files, device)

    def load(
        self, files: Mapping[str, bytes], *, engine: str, device: str, parts: Mapping[str, Sequence[Any]],
        form: str = CODE,
    ) -> Loaded:  # fmt: skip
        from . import artifact

        loaded: Loaded = artifact.load(files, engine, device, parts, form)
        return loaded

    def code(self, files: Mapping[str, bytes]) -> dict[str, str]:
        from . import listing

        return listing.code(files)

    def device_name(self, device: Any) -> str:
        place = self.torch.device(device)
        if place.type == "cuda" and place.index is None:
            place = self.torch.device("cuda", self.torch.cuda.current_device())
        return str(place)

    def versions(self) -> dict[str, str]:
        return {"torch": str(self.torch.__version__)}

    def stage(self, array: Any, dtype: str, device: Any) -> Any:
        torch = self.torch
        if not isinstance(array, torch.Tensor):
            if not (array.flags.c_contiguous and array.flags.writeable and array.dtype.isnative):
                array = np.array(array, array.dtype.newbyteorder("="), order="C")
            array = torch.from_numpy(array)
        elif array.requires_grad:
            array = array.detach()
        kind = self.kinds[dtype]
        if array.dtype is not kind or array.device != device:
            array = array.to(device=device, dtype=kind)
        if array.stride() != _strides(array.shape):
            # Kernels are traced over plain strides. contiguous() keeps odd ones on axes of size 1.
            array = array.contiguous().as_strided(array.shape, _strides(array.shape))
        return array

    def preceded(self, model: Any, signature: Signature, change: Change) -> Any:
        from . import trace

        return trace.Preceded(model, signature, change)

    def followed(self, model: Any, signature: Signature, loss: Callable[[Any, Any], Any]) -> Any:
        from . import trace

        return trace.Followed(model, signature, loss)

    def parameters(self, model: Any, traced: Traced) -> dict[Value, tuple[str, bool]]:
        from . import trace

        return trace.parameters(model, traced)

    def weights_of(self, model: Any, other: Any, traced: Traced) -> dict[Value, Any]:
        from . import trace

        return trace.weights_of(model, other, traced)

    def read(self, weight: Any) -> Any:
        return weight

    def copied(self, weight: Any) -> Any:
        return weight.detach().clone()

    def write(self, weight: Any, value: Numpy) -> None:
        with self.torch.no_grad():
            weight.copy_(self.torch.from_numpy(np.array(value, order="C")))

    def take(self, array: Any, index: Numpy) -> Any:
        return array[self.torch.from_numpy(index).to(array.device)]

    def concat(self, arrays: Sequence[Any]) -> Any:
        return self.torch.cat(list(arrays))

    def pad(self, array: Any, count: int) -> Any:
        missing = count - array.shape[0]
        if missing <= 0:
            return array
        return self.torch.cat([array, array[:1].expand(missing, *array.shape[1:])])

    def expand(self, array: Any, count: int) -> Any:
        return array.expand(count, *array.shape[1:])

    def numpy(self, array: Any) -> Numpy:
        if array.requires_grad:
            array = array.detach()
        if array.dtype is self.torch.bfloat16:
            array = array.float()
        result: Numpy = (array if array.is_cpu else array.cpu()).numpy()
        return result

    def like(self, array: Any, given: Any) -> Any:
        torch = self.torch
        if not isinstance(array, torch.Tensor):
            array = torch.from_numpy(np.ascontiguousarray(array))
        kind = given.dtype if given.is_floating_point() else array.dtype
        if array.dtype is kind and array.device == given.device:
            return array
        return array.to(device=given.device, dtype=kind)

    @property
    def ops(self) -> Ops:
        from . import ops

        return ops

    def view(self, array: Any) -> Numpy | None:
        if not array.is_cpu or array.requires_grad:
            return None
        try:
            result: Numpy = array.numpy()
        except TypeError:  # bfloat16, which numpy does not have
            return None
        return result

    def finite(self, array: Any) -> bool:
        if array.is_cpu and array.numel() < 2**16 and array.dtype is not self.torch.bfloat16:
            host = array.detach() if array.requires_grad else array
            return all_finite(host.numpy())  # a fifth of the overhead of torch's own function
        return bool(self.torch.isfinite(array).all())

    def free_bytes(self, device: Any) -> int:
        if device is not None and device.type == "cuda":
            return int(self.torch.cuda.mem_get_info(device)[0])
        import psutil

        return int(psutil.virtual_memory().available)

    def cache_bytes(self, device: Any) -> int | None:
        return None if device is not None and device.type == "cuda" else CPU_CACHE

    def version(self, weights: Mapping[Value, Any]) -> int:
        """Grows whenever a weight is written to in place."""
        try:
            return sum([tensor._version for tensor in weights.values()])
        except RuntimeError:  # some are inference tensors, which do not count
            return sum([tensor._version for tensor in weights.values() if not tensor.is_inference()])

    def is_out_of_memory(self, error: BaseException) -> bool:
        on_the_host = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
        return on_the_host or isinstance(error, (self.torch.OutOfMemoryError, MemoryError))


class TorchCalls(TorchBackend):
    """The backend for methods that only call the model: nothing is traced."""

    engines: Mapping[str, bool] = {"eager": False}
    default_engine = "eager"
    calls = True
    files = False
    ahead: tuple[str, ...] = ()
    largest_package = 128  # what the model keeps in memory for each row is not known

    def signature(self, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature | None:
        from . import trace

        return trace.declared(model, args, kwargs)

    def trace(
        self, model: Any, signature: Signature, *, device: Any, dtype: str | None, examples: Sequence[Any] = (),
        elementary: bool = False, kept: dict[Any, Any] | None = None,
    ) -> Traced:  # fmt: skip
        from . import calls

        return calls.run(model, signature, device, dtype, examples)

    def refresh(self, model: Any, traced: Traced) -> dict[Value, Any]:
        traced.memory.renew(model)
        return {}

    def compile(self, program: Runnable, traced: Traced, *, engine: str, rows: Size) -> Kernel:
        from . import calls

        return calls.CallKernel(program)

    def save(
        self, parts: Mapping[str, tuple[Runnable, Kernel | None]], traced: Traced, *, engine: str, form: str = CODE
    ) -> dict[str, bytes]:
        raise ArtifactError(CALLED)


BACKEND = TorchBackend()
CALLS = TorchCalls()
