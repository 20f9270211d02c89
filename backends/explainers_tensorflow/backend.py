"""The backend object for TensorFlow and Keras, which are imported at first use."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
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
    Traced,
)
from explainers.errors import ArtifactError
from explainers.graph import Value
from explainers.ops import Ops
from explainers.spec import Numpy, Signature, all_finite


class TensorFlowBackend(BackendDefaults):
    name = "tensorflow"
    engines: Mapping[str, bool] = {"graph": False, "xla": True, "eager": False}
    default_engine = "graph"
    files = True
    forms: tuple[str, ...] = FORMS
    channel_axis = -1

    @property
    def calling(self) -> Backend:
        return CALLS

    @cached_property
    def tensorflow(self) -> Any:
        import tensorflow

        return tensorflow

    def installed(self) -> bool:
        return "tensorflow" in sys.modules or importlib.util.find_spec("tensorflow") is not None

    def accepts(self, model: Any) -> bool:
        if isinstance(model, (str, os.PathLike)):
            return os.path.isfile(os.path.join(model, "saved_model.pb")) or os.fspath(model).endswith(".keras")
        keras = sys.modules.get("keras")
        if keras is not None and hasattr(keras, "layers") and isinstance(model, keras.layers.Layer):
            return bool(keras.backend.backend() == "tensorflow")
        tf = sys.modules.get("tensorflow")
        if tf is None or not hasattr(tf, "Module"):
            return False
        from . import models

        return models.kind(model) is not None

    def opened(self, model: Any) -> Any:
        from . import models

        return models.opened(model)

    def owns(self, array: Any) -> bool:
        tf = sys.modules.get("tensorflow")
        return tf is not None and isinstance(array, (tf.Tensor, tf.Variable))

    def signature(self, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature | None:
        from . import models

        return models.signature(model, args, kwargs)

    def trace(
        self, model: Any, signature: Signature, *, device: Any, dtype: str | None, examples: Sequence[Any] = (),
        elementary: bool = False, kept: dict[Any, Any] | None = None,
    ) -> Traced:  # fmt: skip
        from . import trace

        return trace.trace(model, signature, device, dtype, elementary)

    def refresh(self, model: Any, traced: Traced) -> dict[Value, Any]:
        """The variables themselves: kernels read them at every call."""
        return dict(traced.weights)

    def preceded(self, model: Any, signature: Signature, change: Change) -> Any:
        from . import models

        return models.preceded(model, signature, change)

    def followed(self, model: Any, signature: Signature, loss: Callable[[Any, Any], Any]) -> Any:
        from . import models

        return models.followed(model, signature, loss)

    def parameters(self, model: Any, traced: Traced) -> dict[Value, tuple[str, bool]]:
        from . import ops, trace

        return trace.parameters(model, {v: w for v, w in traced.weights.items() if not ops.is_table(w)})

    def weights_of(self, model: Any, other: Any, traced: Traced) -> dict[Value, Any]:
        from . import models

        return models.weights_of(model, other, traced.weights)

    def compile(self, program: Runnable, traced: Traced, *, engine: str, rows: Size) -> Kernel:
        from . import kernel

        return kernel.compile(program, traced, engine, rows)

    def save(
        self, parts: Mapping[str, tuple[Runnable, Kernel | None]], traced: Traced, *, engine: str, form: str = CODE
    ) -> dict[str, bytes]:
        from . import artifact

        return artifact.save(parts, traced, engine, form)

    def load(
        self, files: Mapping[str, bytes], *, engine: str, device: str, parts: Mapping[str, Sequence[Any]],
        form: str = CODE,
    ) -> Loaded:  # fmt: skip
        from . import artifact

        loaded: Loaded = artifact.load(files, engine, device, parts, form)
        return loaded

    def code(self, files: Mapping[str, bytes]) -> dict[str, str]:
        from . import artifact

        return artifact.code(files)

    def device_name(self, device: Any) -> str:
        from . import trace

        return trace.device_name(device) or ""

    def versions(self) -> dict[str, str]:
        keras = sys.modules.get("keras")
        found = {"tensorflow": str(self.tensorflow.__version__)}
        return found if keras is None else {**found, "keras": str(keras.__version__)}

    def stage(self, array: Any, dtype: str, device: Any) -> Any:
        tf = self.tensorflow
        if isinstance(array, tf.Variable):
            array = array.read_value()
        if dtype == "string":  # words stay on the host
            return array if isinstance(array, tf.Tensor) else tf.convert_to_tensor(np.asarray(array, object))
        if isinstance(array, tf.Tensor):
            array = array if array.dtype.name == dtype else tf.cast(array, dtype)
            return array if device is None else self._placed(array, device)
        kind = tf.as_dtype(dtype).as_numpy_dtype
        if array.dtype != kind:
            array = array.astype(kind)
        if device is None:
            return tf.convert_to_tensor(array)
        with tf.device(device):
            return tf.convert_to_tensor(array)

    def _placed(self, array: Any, device: str) -> Any:
        with self.tensorflow.device(device):
            return self.tensorflow.identity(array)

    def read(self, weight: Any) -> Any:
        from . import ops

        return ops.read(weight)

    def copied(self, weight: Any) -> Any:
        from . import ops

        return weight if ops.is_table(weight) else self.tensorflow.Variable(ops.read(weight), trainable=False)

    def write(self, weight: Any, value: Numpy) -> None:
        weight.assign(value)

    def take(self, array: Any, index: Numpy) -> Any:
        return self.tensorflow.gather(array, index)

    def concat(self, arrays: Sequence[Any]) -> Any:
        return self.tensorflow.concat(list(arrays), 0)

    def pad(self, array: Any, count: int) -> Any:
        missing = count - array.shape[0]
        if missing <= 0:
            return array
        host = self.view(array)
        if host is None:
            return self.tensorflow.concat([array, self.expand(array[:1], missing)], 0)
        filler = np.broadcast_to(host[:1], (missing, *host.shape[1:]))
        return self._placed_on(np.concatenate([host, filler]), array.device)

    def first(self, array: Any, count: int) -> Any:
        host = self.view(array)
        return array[:count] if host is None else self._placed_on(host[:count], array.device)

    def _placed_on(self, host: Numpy, device: str) -> Any:
        """A copy on the processor; eager operations on a few rows cost ten times as much."""
        with self.tensorflow.device(device):
            return self.tensorflow.convert_to_tensor(host)

    def expand(self, array: Any, count: int) -> Any:
        return self.tensorflow.broadcast_to(array, (count, *array.shape[1:]))

    def numpy(self, array: Any) -> Numpy:
        result: Numpy = array.numpy()
        return result.astype(np.float32) if array.dtype.name == "bfloat16" else result

    def like(self, array: Any, given: Any) -> Any:
        tf = self.tensorflow
        if isinstance(array, tf.Tensor) and array.dtype == given.dtype and array.device == given.device:
            return array
        kind = given.dtype if given.dtype.is_floating else tf.as_dtype(array.dtype)
        with tf.device(given.device):
            return tf.cast(tf.convert_to_tensor(array), kind)

    @property
    def ops(self) -> Ops:
        from . import ops

        return ops

    def view(self, array: Any) -> Numpy | None:
        return np.asarray(array) if "CPU" in array.device and array.dtype.name != "bfloat16" else None

    def finite(self, array: Any) -> bool:
        if not array.dtype.is_floating:
            return True
        if "CPU" in array.device:  # numpy shares the memory, and has less overhead per call
            return all_finite(np.asarray(array))
        tf = self.tensorflow
        return bool(tf.reduce_all(tf.math.is_finite(array)))

    def free_bytes(self, device: Any) -> int:
        if device is not None and "GPU" in device:
            return self._free_on_gpu(device)
        import psutil

        return int(psutil.virtual_memory().available)

    def _free_on_gpu(self, device: str) -> int:
        from tensorflow.python.client import device_lib

        limits = {d.name: d.memory_limit for d in device_lib.list_local_devices()}
        name = "/device:" + device.rpartition("device:")[2]
        used = self.tensorflow.config.experimental.get_memory_info(device.rpartition("device:")[2])["current"]
        return int(limits[name] - used)

    def cache_bytes(self, device: Any) -> int | None:
        return None if device is not None and "GPU" in device else CPU_CACHE

    def version(self, weights: Mapping[Value, Any]) -> Any:
        """Equal as long as no variable was written to."""
        return _State(weights)

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, (self.tensorflow.errors.ResourceExhaustedError, MemoryError))


class TensorFlowCalls(TensorFlowBackend):
    """The backend for methods that only call the model: nothing is traced."""

    engines: Mapping[str, bool] = {"eager": False}
    default_engine = "eager"
    calls = True
    files = False
    takes_lengths = True
    largest_package = 128  # what the model keeps in memory for each row is not known

    def trace(
        self, model: Any, signature: Signature, *, device: Any, dtype: str | None, examples: Sequence[Any] = (),
        elementary: bool = False, kept: dict[Any, Any] | None = None,
    ) -> Traced:  # fmt: skip
        from . import calls

        return calls.run(model, signature, device, dtype, examples)

    def save(
        self, parts: Mapping[str, tuple[Runnable, Kernel | None]], traced: Traced, *, engine: str, form: str = CODE
    ) -> dict[str, bytes]:
        raise ArtifactError(CALLED)


class _State:
    """The buffers of all variables. While they are referenced here, a write to a variable allocates a new buffer."""

    def __init__(self, weights: Mapping[Value, Any]) -> None:
        from . import ops

        plain = [weight for weight in weights.values() if not ops.is_table(weight)]
        tables = [weight for weight in weights.values() if ops.is_table(weight)]
        self.held = [weight.read_value() if hasattr(weight, "read_value") else weight for weight in plain]
        fixed = all(isinstance(table, ops.FIXED_TABLES) for table in tables)
        near = fixed and all("CPU" in array.device for array in self.held)
        self.views = [np.asarray(array) for array in self.held] if near else []
        self.places = [view.ctypes.data for view in self.views] if near else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _State) and self.places is not None and self.places == other.places

    __hash__ = None  # type: ignore[assignment]


BACKEND = TensorFlowBackend()
CALLS = TensorFlowCalls()
