"""TensorFlow models as graphs, and programs over them against GradientTape, on every engine."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from explainers import Explainer, methods
from explainers.backend import Traced
from explainers.errors import InputError, TraceError, UnknownNameError
from explainers.graph import Role
from explainers.program import Program
from explainers.spec import Signature, TensorSpec
from explainers_tensorflow import BACKEND
from explainers_tensorflow.kernel import TensorFlowKernel

# --- models ----------------------------------------------------------------------------------


def mlp() -> Any:
    return keras.Sequential([keras.Input((5,)), layers.Dense(7, activation="relu"), layers.Dense(3)])


def cnn() -> Any:
    given = keras.Input((8, 8, 3), name="image")
    x = skip = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(given))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(layers.ReLU()(x))
    x = layers.MaxPool2D()(layers.Add()([x, skip]))
    return keras.Model(given, layers.Dense(3)(layers.Flatten()(x)))


def several() -> Any:
    left, right = keras.Input((4,), name="left"), keras.Input((6,), name="right")
    joined = layers.Concatenate()([layers.Dense(2, activation="tanh")(left), right])
    return keras.Model({"left": left, "right": right}, {"logits": layers.Dense(3)(joined)})


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = layers.Dense(4, activation="elu"), layers.Dense(3)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.head(self.block(self.block(x)))


def subclassed() -> Any:
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    return model


def attention() -> Any:
    given = keras.Input((6, 4), name="tokens")
    x = layers.LayerNormalization()(layers.Dense(4, activation="silu")(given))
    x = layers.Add()([x, layers.MultiHeadAttention(2, 2, name="heads")(x, x)])
    x = layers.Dense(3, activation="softmax")(layers.Flatten()(layers.Dense(4, activation="gelu")(x)))
    return keras.Model(given, x)


def recurrent(unroll: bool) -> Any:
    return keras.Sequential([keras.Input((5, 4)), layers.LSTM(3, unroll=unroll), layers.Dense(2)])


def bidirectional() -> Any:
    both = layers.Bidirectional(layers.GRU(2, return_sequences=True))
    return keras.Sequential([keras.Input((4, 3)), both, layers.GlobalAveragePooling1D(), layers.Dense(2)])


class Module(tf.Module):
    """A loop of known length, a branch on a shape, and a tensor from around the function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(np.linspace(-1, 1, 12).reshape(4, 3).astype("float32"), name="weight")
        self.scale = tf.constant(np.linspace(1, 2, 30, dtype="float32").reshape(10, 3))

    @tf.function(input_signature=[tf.TensorSpec((None, 6, 4), tf.float32)])
    def __call__(self, x: Any) -> Any:
        for _ in tf.range(3):
            x = x + tf.tanh(x)
        if tf.shape(x)[1] > 3:
            x = x * 2
        return tf.reduce_mean(tf.tanh(x @ self.weight), 1) * self.scale[3]


MODELS: dict[str, tuple[Callable[[], Any], list[tuple[int, ...]]]] = {
    "mlp": (mlp, [(5,)]),
    "cnn": (cnn, [(8, 8, 3)]),
    "several": (several, [(4,), (6,)]),
    "subclassed": (subclassed, [(4,)]),
    "attention": (attention, [(6, 4)]),
    "lstm": (functools.partial(recurrent, False), [(5, 4)]),
    "unrolled": (functools.partial(recurrent, True), [(5, 4)]),
    "bidirectional": (bidirectional, [(4, 3)]),
    "module": (Module, [(6, 4)]),
}


@functools.cache
def model_of(name: str) -> Any:
    keras.utils.set_random_seed(3)
    return MODELS[name][0]()


def draw(name: str, count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(count)
    return [generator.normal(size=(count, *shape)).astype("float32") for shape in MODELS[name][1]]


def traced_model(model: Any, *examples: Any) -> Traced:
    model = BACKEND.opened(model)
    signature = BACKEND.signature(model, examples, {})
    assert signature is not None
    return BACKEND.trace(model, signature, device=None, dtype=None)


@functools.cache
def traced_of(name: str) -> Traced:
    return traced_model(model_of(name), *(draw(name, 2) if name == "subclassed" else ()))


def program_of(traced: Traced, method: Any = "gradient") -> Program:
    graph = traced.graph.restrict(traced.graph.outputs[:1])
    program = Program(graph, methods.resolve(method), graph.inputs)
    program.check_rules()
    return program


def called(name: str, model: Any, tensors: list[Any]) -> Any:
    if name == "several":
        return model(dict(zip(("left", "right"), tensors, strict=True)), training=False)["logits"]
    return (
        model(*tensors)
        if isinstance(model, tf.Module) and not isinstance(model, keras.Layer)
        else model(*tensors, training=False)
    )


def by_tape(function: Callable[[list[Any]], Any], arrays: list[np.ndarray], mask: np.ndarray) -> list[np.ndarray]:
    tensors = [tf.constant(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        y = function(tensors)
        total = tf.reduce_sum(y * mask)
    return [y.numpy(), *(gradient.numpy() for gradient in tape.gradient(total, tensors))]


def run(traced: Traced, arrays: list[np.ndarray], mask: np.ndarray, engine: str) -> list[np.ndarray]:
    rows = len(mask) if BACKEND.engines[engine] else None
    kernel = BACKEND.compile(program_of(traced), traced, engine=engine, rows=rows)
    return [
        part.numpy() for part in kernel(*(BACKEND.stage(a, "float32", None) for a in (*arrays, mask)), tf.zeros(()))
    ]


def assert_close(got: list[np.ndarray], want: list[np.ndarray], relative: float = 1e-5) -> None:
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        assert abs(g - w).max() <= relative * abs(w).max()


# --- gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", BACKEND.engines)
@pytest.mark.parametrize("name", MODELS)
def test_gradient_equals_tape(name: str, engine: str) -> None:
    traced, model = traced_of(name), model_of(name)
    for count in (1, 4):
        arrays = draw(name, count)
        shape = traced.graph.output(traced.graph.outputs[0][1]).shape[1:]
        mask = np.random.default_rng(9).normal(size=(count, *shape)).astype("float32")
        want = by_tape(lambda tensors: called(name, model, tensors), arrays, mask)
        assert_close(run(traced, arrays, mask, engine), want)


METHODS = (
    "saliency", "integrated_gradients", "smoothgrad", "gradient_shap", "guided_backprop", "deconvnet",
    "feature_ablation",
)  # fmt: skip


def arguments(program: Program, count: int) -> list[Any]:
    """Something for every placeholder: ``count`` samples and baselines, two rows a sample."""
    generator = np.random.default_rng(0)
    values = []
    for holder in program.placeholders:
        lead = {"samples": (count,), "baselines": (count,), "rows": (2 * count,), "": ()}[holder.axis]
        shape = (*lead, *holder.shape)
        if holder.name in ("sample", "baseline"):
            array = np.repeat(np.arange(count), 2)
        elif holder.dtype.startswith("int"):
            array = generator.integers(0, 4, shape)
        else:
            array = generator.uniform(0.1, 1, shape)
        values.append(BACKEND.stage(np.asarray(array), holder.dtype, None))
    return values


@pytest.mark.parametrize("method", METHODS)
def test_engines_agree_on_every_method(method: str) -> None:
    traced = traced_of("cnn")
    program = program_of(traced, method)
    results = {}
    for engine in ("graph", "eager", "xla"):
        # one static size for every leading axis: as many samples and baselines as rows
        count = 4 if BACKEND.engines[engine] else 2
        given = arguments(program, 2)
        if BACKEND.engines[engine]:
            sizes = [p.axis for p in program.placeholders]
            given = [BACKEND.pad(a, count) if axis else a for a, axis in zip(given, sizes, strict=True)]
        kernel = BACKEND.compile(program, traced, engine=engine, rows=count if BACKEND.engines[engine] else None)
        results[engine] = [part.numpy()[:2] for part in kernel(*given)]
    assert_close(results["eager"], results["graph"])
    assert_close(results["xla"], results["graph"], 1e-4)


def test_guided_backprop_takes_effect_on_relu() -> None:
    relus = [node for node in traced_of("cnn").graph if node.function == "relu"]
    assert [node.role for node in relus] == [Role.UNIVARIATE] * 2


def test_many_threads_get_what_one_gets() -> None:
    traced = traced_of("attention")
    kernel = BACKEND.compile(program_of(traced), traced, engine="graph", rows=None)
    given = [[tf.constant(a) for a in (*draw("attention", n), np.ones((n, 3), "float32"))] for n in range(1, 9)]
    want = [kernel(*arrays, tf.zeros(()))[1].numpy() for arrays in given]
    got: list[Any] = [None] * len(given)

    def work(place: int) -> None:
        for _ in range(5):
            got[place] = kernel(*given[place], tf.zeros(()))[1].numpy()

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_close(got, want)


class Other:
    """A concrete function of a TensorFlow without, or with another, private call."""

    def __init__(self, native: Any, inner: Any) -> None:
        self.native, self.captured_inputs, self.outputs = native, native.captured_inputs, native.outputs
        self.calls = 0
        if inner is not None:
            self._inference_function = inner

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        return self.native(*arguments)


def refuses(*arguments: Any) -> Any:
    raise TypeError("call_preflattened() takes 3 arguments")


@pytest.mark.parametrize(
    "inner",
    [None, object(), SimpleNamespace(call_preflattened=refuses), SimpleNamespace(call_preflattened=lambda flat: [])],
)
def test_without_tensorflows_private_call(inner: Any) -> None:
    traced = traced_of("mlp")
    kernel = BACKEND.compile(program_of(traced), traced, engine="graph", rows=None)
    given = [tf.constant(a) for a in (*draw("mlp", 2), np.ones((2, 3), "float32"), np.float32(0))]
    native = Other(kernel.native, inner)
    other = TensorFlowKernel(native, kernel.graph, kernel.weights)
    for _ in range(2):
        assert_close([a.numpy() for a in other(*given)], [a.numpy() for a in kernel(*given)])
    assert native.calls == 2
    assert kernel._direct is not None  # this TensorFlow has it


# --- the model stays the model ---------------------------------------------------------------


def test_weights_are_the_models_own_variables() -> None:
    keras.utils.set_random_seed(1)
    model = mlp()
    traced = traced_model(model)
    assert {id(v) for v in traced.weights.values()} == {id(v.value) for v in model.variables}
    kernel = BACKEND.compile(program_of(traced), traced, engine="graph", rows=None)
    given = [tf.constant(a) for a in (*draw("mlp", 2), np.ones((2, 3), "float32"))]
    before = kernel(*given, tf.zeros(()))[1].numpy()
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 2)
    assert_close([kernel(*given, tf.zeros(()))[1].numpy()], [2 * before])


def test_tracing_leaves_no_losses_behind() -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, activity_regularizer="l2")])
    before = [list(layer._losses) for layer in model._flatten_layers()]
    traced_model(model)
    assert [list(layer._losses) for layer in model._flatten_layers()] == before


# --- SavedModels -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["signature", "call", "loaded"])
def test_saved_module(tmp_path: Any, how: str) -> None:
    module = model_of("module")
    signatures = module.__call__.get_concrete_function() if how != "call" else None
    tf.saved_model.save(module, str(tmp_path), signatures=signatures)
    model = tf.saved_model.load(str(tmp_path)) if how == "loaded" else tmp_path
    assert BACKEND.accepts(model)
    arrays, mask = draw("module", 3), np.ones((3, 3), "float32")
    want = by_tape(lambda tensors: module(*tensors), arrays, mask)
    assert_close(run(traced_model(model), arrays, mask, "graph"), want)


def test_exported_keras_model(tmp_path: Any) -> None:
    model = recurrent(False)
    model.export(str(tmp_path / "lstm"), verbose=False)
    traced = traced_model(str(tmp_path / "lstm"))
    name = model.layers[0].name
    assert {name, f"{name}.lstm_cell", f"{name}.lstm_cell@4"} <= set(traced.graph.scopes())
    arrays, mask = draw("lstm", 3), np.ones((3, 2), "float32")
    assert_close(run(traced, arrays, mask, "graph"), by_tape(lambda t: model(*t), arrays, mask))


def test_a_saved_layer_goes_by_its_own_name(tmp_path: Any) -> None:
    """TensorFlow saves ``dense_3`` as the scope ``dense_3_1``, and ``dense_3_1`` as ``dense_3_1_2``."""
    given = keras.Input((4,))
    twice = layers.Dense(4, name="twice")
    x = layers.ReLU(name="rectified")(twice(twice(layers.Dense(4, name="dense_3")(given))))
    model = keras.Model(given, layers.Dense(3, name="dense_3_1")(x))
    model.export(str(tmp_path), verbose=False)
    graph = traced_model(str(tmp_path)).graph
    assert graph.scopes() == ["dense_3", "twice", "twice@1", "rectified_1?", "dense_3_1"]
    assert [graph.output(graph.layer(path)[0]).shape[1] for path in ("dense_3", "dense_3_1")] == [4, 3]
    with pytest.raises(UnknownNameError, match=r"unknown input or layer 'rectified_1'\. Did you mean 'rectified_1\?'"):
        Explainer.compile(str(tmp_path), "gradient", wrt="rectified_1")
    explain = Explainer.compile(str(tmp_path), "gradient", wrt="rectified_1?")
    assert explain(*draw("subclassed", 2), target=1).shape == (2, 4)


# --- functions, signatures, structures -------------------------------------------------------


def test_functions() -> None:
    weight = tf.Variable(np.eye(4, 3, dtype="float32"))

    @tf.function
    def function(x: Any) -> Any:
        return tf.nn.softmax(x[:, 0] @ weight)

    assert BACKEND.signature(function, (), {}) is None
    arrays, mask = draw("module", 3), np.eye(3, dtype="float32")
    want = by_tape(lambda tensors: function(*tensors), arrays, mask)
    assert_close(run(traced_model(function, *arrays), arrays, mask, "graph"), want)
    concrete = function.get_concrete_function(tf.TensorSpec((None, 6, 4), tf.float32))
    assert BACKEND.accepts(concrete)
    assert_close(run(traced_model(concrete), arrays, mask, "graph"), want)


def test_signatures() -> None:
    assert BACKEND.signature(model_of("several"), (), {}) == Signature(
        (TensorSpec((None, 4), "float32", "left"), TensorSpec((None, 6), "float32", "right")), 2
    )
    by_name = {"right": np.zeros((1, 6)), "left": np.zeros((1, 4))}
    assert BACKEND.signature(model_of("several"), (), by_name) == BACKEND.signature(model_of("several"), (), {})
    assert BACKEND.signature(model_of("subclassed"), (), {}) is None
    (spec,) = BACKEND.signature(model_of("subclassed"), (np.zeros((2, 4)),), {}).inputs
    assert (spec.name, spec.dtype, spec.shape) == ("x", "float32", (None, 4))


def test_any_size_needs_an_example() -> None:
    given = keras.Input((None, None, 3))
    model = keras.Model(given, layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(given)))
    with pytest.raises(InputError, match="backend 'tensorflow' needs all sizes but the batch's"):
        Explainer.compile(model, "gradient")
    traced = traced_model(model, np.zeros((1, 9, 7, 3), "float32"))
    assert traced.signature.inputs[0].sample_shape == (9, 7, 3)


def test_nested_inputs_and_outputs() -> None:
    class Nested(keras.Model):
        def call(self, inputs: Any) -> Any:
            product = inputs["a"] * inputs["b"]
            return {"product": product, "parts": [inputs["a"], product + 1]}

    model = Nested()
    example = {"a": np.ones((2, 3), "float32"), "b": np.ones((2, 3), "float32")}
    model(example)
    traced = traced_model(model, example)
    assert traced.signature.names == ("inputs.a", "inputs.b")
    assert [key for key, _ in traced.graph.outputs] == ["product", "parts.0", "parts.1"]


# --- what the graph says ---------------------------------------------------------------------


def test_layers_go_by_their_keras_names() -> None:
    graph = traced_of("attention").graph
    assert {"heads", "heads.query", "heads.key", "heads.attention_output"} <= set(graph.scopes())
    (value,) = graph.layer("heads")
    assert graph.output(value).shape == (None, 6, 4)


def test_calls_of_a_reused_layer_are_told_apart() -> None:
    scopes = traced_of("subclassed").graph.scopes()
    name = model_of("subclassed").block.name
    assert {name, f"{name}@1"} <= set(scopes)
    assert len(traced_of("subclassed").graph.layer(f"{name}@1")) == 1


def test_shapes_know_the_batch_from_the_rest() -> None:
    for node in traced_of("attention").graph:
        if node.role not in (Role.WEIGHT, Role.CONSTANT):
            assert all(out.shape[0] is None and None not in out.shape[1:] for out in node.outputs), str(node)


def test_roles() -> None:
    @tf.function
    def function(x: Any) -> Any:
        return x * x + x * 2.0 + 1.0 / x + x / 2.0 + tf.maximum(x, 0.0) + tf.maximum(x, 2 * x) + x * tf.tanh(x)

    graph = traced_model(function, np.ones((2, 3), "float32")).graph
    found = [(node.op, node.role, node.function) for node in graph if node.op in ("Mul", "RealDiv", "Maximum")]
    assert found == [
        ("Mul", Role.UNIVARIATE, "arithmetic"), ("Mul", Role.LINEAR, "scale"),
        ("RealDiv", Role.UNIVARIATE, "arithmetic"),
        ("RealDiv", Role.LINEAR, "scale"), ("Maximum", Role.UNIVARIATE, "relu"), ("Mul", Role.LINEAR, "scale"),
        ("Maximum", Role.REDUCE_MAX, ""), ("Mul", Role.PRODUCT, ""),
    ]  # fmt: skip


# --- errors ----------------------------------------------------------------------------------


class Branching(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        if tf.reduce_sum(x) > 0:  # the user's own line
            x = x * 2
        return x


def branching() -> Any:
    layer = Branching()
    layer.build((None, 4))
    return layer


def while_positive(x: Any) -> Any:
    while tf.reduce_sum(x) > 0:
        x = x - 1
    return x


ERRORS: dict[str, tuple[Callable[[], Any], str]] = {
    "branch": (branching, r"test_trace\.py:\d+.*control flow depends on the values.*tf\.where"),
    "loop": (lambda: tf.function(while_positive), r"test_trace\.py:\d+ is a loop whose length.*unroll=True"),
    "random": (lambda: tf.function(lambda x: x + tf.random.normal(tf.shape(x))), "RandomStandardNormal.*repeatable"),
    "python": (
        lambda: tf.function(lambda x: tf.py_function(lambda a: a * 2, [x], tf.float32)),
        "EagerPyFunc.*runs Python code",
    ),
    "mask": (lambda: tf.function(lambda x: tf.boolean_mask(x, x[:, 0] > 0)), "depends on the values of the input"),
    "numpy": (lambda: tf.function(lambda x: x.numpy()), "turns a tensor into numpy"),
    "batch": (lambda: tf.function(lambda x: tf.reshape(x, (3, 4)) * 2.0), "does not work with a batch of any size"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_operation_and_the_line(name: str) -> None:
    make, match = ERRORS[name]
    with pytest.raises(TraceError, match=match):
        traced_model(make(), np.ones((3, 4), "float32"))


def test_a_stateful_layer_is_refused() -> None:
    model = keras.Sequential([keras.Input(batch_shape=(3, 5, 4)), layers.LSTM(2, stateful=True)])
    with pytest.raises(TraceError, match="writes to"):
        traced_model(model)


def test_dtype_and_device() -> None:
    model = model_of("mlp")
    signature = BACKEND.signature(model, (), {})
    with pytest.raises(InputError, match="Build it in float64"):
        BACKEND.trace(model, signature, device=None, dtype="float64")
    with pytest.raises(InputError, match="TensorFlow sees"):
        BACKEND.trace(model, signature, device="toaster", dtype=None)
    assert BACKEND.trace(model, signature, device="cpu", dtype="float32").device == "/device:CPU:0"


def test_an_unbuilt_model_is_refused() -> None:
    with pytest.raises(InputError, match="not built"):
        traced_model(Subclassed(), np.zeros((1, 4), "float32"))


# --- the backend object ----------------------------------------------------------------------


def test_importing_the_backend_imports_no_framework() -> None:
    code = (
        "import sys; from explainers_tensorflow import BACKEND as b\n"
        "assert b.installed() and not b.accepts(object()) and not b.owns([1]) and not b.accepts('/no/such/folder')\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_staging() -> None:
    x = np.arange(6.0).reshape(3, 2)
    staged = BACKEND.stage(x, "float32", None)
    assert staged.dtype == tf.float32
    assert BACKEND.stage(staged, "float32", None) is staged
    assert BACKEND.pad(staged, 4).numpy().tolist() == [*x.tolist(), x[0].tolist()]
    assert BACKEND.expand(staged[:1], 2).shape == (2, 2)
    assert BACKEND.take(staged, np.array([2, 0])).numpy().tolist() == [x[2].tolist(), x[0].tolist()]
    assert BACKEND.like(x, staged).dtype == tf.float32
    assert BACKEND.owns(staged)
    assert not BACKEND.owns(x)
    assert BACKEND.like(staged, staged) is staged
    assert BACKEND.like(staged, tf.cast(staged, tf.float16)).dtype == tf.float16
    for dtype in (tf.bfloat16, tf.float16, tf.float32, tf.float64):
        array = tf.cast(staged, dtype)
        assert BACKEND.finite(array)
        assert not BACKEND.finite(array / 0)
    assert BACKEND.finite(tf.range(3))
    assert BACKEND.free_bytes(None) > 0


def test_long_loops_are_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for steps, told in ((5, 0), (4, 1)):
        monkeypatch.setattr("explainers_tensorflow.flatten.LONG_LOOP", steps)
        Explainer.compile(recurrent(False), "gradient")
        found = [record for record in caplog.records if record.name == "explainers_tensorflow.flatten"]
        assert len(found) == told
    assert "is taken apart: each step takes about 0." in found[0].getMessage()
