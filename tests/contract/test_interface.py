"""What goes in comes back: array types, dtypes, structure, outputs, layers; and what an explainer shows of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, Explanation, TensorSpec, errors, methods

from .subjects import assert_close, subject

LABELS = ["torch-mlp", "tensorflow-sequential", "numpy-mlp"]


class WithArray:
    """An array of no known type, by ``__array__``."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)


class WithDlpack:
    """An array of no known type, by ``__dlpack__`` alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def compiled(label: str, method: str = "feature_ablation", dtype: str = "float32", **options: Any) -> tuple[Any, Any]:
    found = subject(label, dtype)
    return found.compile(method, **options), found.case.draw(4, dtype)


# --- types -----------------------------------------------------------------------------------


@pytest.mark.parametrize("label", LABELS)
def test_every_kind_of_array_gives_the_same_in_its_own_kind(label: str) -> None:
    import tensorflow as tf
    import torch

    explain, (x,) = compiled(label)
    want = explain(x, target=1)
    assert type(want) is np.ndarray
    in_torch = explain(torch.from_numpy(x.copy()), target=torch.tensor(1))
    assert type(in_torch) is torch.Tensor
    assert in_torch.dtype is torch.float32
    in_tensorflow = explain(tf.constant(x), target=tf.constant([1, 1, 1, 1]))
    assert isinstance(in_tensorflow, tf.Tensor)
    assert in_tensorflow.dtype == tf.float32
    others = [WithArray(x), WithDlpack(x), x.tolist(), tf.Variable(x), torch.nn.Parameter(torch.tensor(x))]
    for other in (in_torch, in_tensorflow, *(explain(o, target=1) for o in others)):
        np.testing.assert_allclose(np.asarray(other), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("label", ["torch-mlp", "tensorflow-sequential"])
def test_a_result_never_carries_a_gradient(label: str) -> None:
    import torch

    explain, (x,) = compiled(label, "gradient")
    assert not explain(torch.tensor(x, requires_grad=True), target=0).requires_grad


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dtype_is_the_one_given(label: str, dtype: str) -> None:
    explain, (x,) = compiled(label)
    got = explain(x.astype(dtype), target=1)
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_allclose(got, explain(x, target=1), atol=0.02)


@pytest.mark.parametrize("label", LABELS)
def test_odd_strides_and_read_only_arrays(label: str) -> None:
    explain, (x,) = compiled(label)
    want = explain(x, target=1)
    wide = np.zeros((8, 10), np.float32)
    wide[::2, ::2] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    swapped = x.astype(x.dtype.newbyteorder())
    for given in (wide[::2, ::2], np.asfortranarray(x), frozen, x[::-1][::-1], swapped):
        np.testing.assert_array_equal(explain(given, target=1), want)


@pytest.mark.parametrize("label", LABELS)
def test_inputs_are_not_written_to(label: str) -> None:
    explain, (x,) = compiled(label)
    before = x.copy()
    result = explain(x, target=1)
    result[:] = 99
    np.testing.assert_array_equal(x, before)
    assert abs(explain(x, target=1)).max() < 99


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_dtype_of_its_own_leaves_the_model_as_it_is(dtype: str) -> None:
    import torch

    found = subject("torch-mlp", "float64")
    (x,) = found.case.draw(4, "float64")
    explain = Explainer.compile(found.model, "integrated_gradients", inputs=x, dtype=dtype)
    assert explain.signature.inputs[0].dtype == dtype
    exact = Explainer.compile(found.model, "integrated_gradients", inputs=x)(x, target=1)
    got = explain(x, target=1)
    assert got.dtype == np.float64
    tolerance = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.1}[dtype]
    assert abs(got - exact).max() < tolerance * abs(exact).max()
    assert next(found.model.parameters()).dtype is torch.float64


def test_a_bfloat16_model() -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    x = torch.randn(3, 5)
    want = Explainer.compile(model, "integrated_gradients")(x, target=0)
    got = Explainer.compile(model.bfloat16(), "integrated_gradients")(x.bfloat16(), target=0)
    assert got.dtype is torch.bfloat16
    assert (got.float() - want).abs().max() < 0.05 * want.abs().max()


# --- structure -------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["torch-two_inputs", "tensorflow-two_inputs", "numpy-two_inputs"])
def test_structure_is_the_one_given(label: str) -> None:
    explain, (left, right) = compiled(label)
    first, second = explain.signature.names
    a, b = explain(left, right, target=1)
    for again in (explain((left, right), target=1), tuple(explain({first: left, second: right}, target=1).values())):
        np.testing.assert_array_equal(again[0], a)
        np.testing.assert_array_equal(again[1], b)
    named = explain(target=1, **{second: right, first: left})
    assert list(named) == [first, second]
    np.testing.assert_array_equal(named[first], a)
    mixed = explain(left, target=1, **{second: right})
    assert set(mixed) == {first, second}


@pytest.mark.parametrize("label", ["torch-two_inputs", "tensorflow-two_inputs", "numpy-two_inputs"])
@pytest.mark.parametrize("by", ["name", "position", "list"])
def test_wrt_picks_an_input(label: str, by: str) -> None:
    explain, arrays = compiled(label)
    name = explain.signature.names[1]
    chosen = {"name": name, "position": 1, "list": [name]}[by]
    alone, _ = compiled(label, wrt=chosen)
    assert_close([alone(*arrays, target=0)], [explain(*arrays, target=0)[1]], 1e-6)


@pytest.mark.parametrize("label", ["torch-two_inputs", "tensorflow-two_inputs"])
def test_wrt_may_turn_the_order_around(label: str) -> None:
    explain, arrays = compiled(label, "integrated_gradients-right")
    turned, _ = compiled(label, "integrated_gradients-right", wrt=[1, 0])
    assert_close(list(turned(*arrays, target=0)), list(explain(*arrays, target=0))[::-1], 1e-6)


@pytest.mark.parametrize("label", ["torch-dict", "tensorflow-dict"])
def test_output_by_key_and_position(label: str) -> None:
    found = subject(label, "float64")
    arrays = found.case.draw(3, "float64")
    by_key = found.compile("gradient", output="hidden")(*arrays, target=4)
    by_place = found.compile("gradient", output=0)(*arrays, target=4)
    np.testing.assert_array_equal(by_key, by_place)
    last = found.compile("gradient", output=-1)(*arrays, target=2)
    np.testing.assert_array_equal(last, found.compile("gradient", output="logits")(*arrays, target=2))


def test_integer_inputs_are_passed_along() -> None:
    found = subject("torch-float_and_mask", "float64")
    sequence, mask = found.case.draw(3, "float64")
    got = found.compile("integrated_gradients-midpoint")(sequence, mask, target=0)
    assert got.shape == sequence.shape
    assert (got[mask == 0] == 0).all()
    boolean = Explainer.compile(found.model, "gradient", inputs=(sequence, mask.astype(bool)))
    np.testing.assert_array_equal(
        boolean(sequence, mask.astype(bool), target=0), found.compile("gradient")(sequence, mask, target=0)
    )


# --- layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradient", "integrated_gradients-midpoint", "feature_ablation"])
def test_a_hidden_layer_of_a_cnn(method: str) -> None:
    """Behind the first convolution of a residual net, the skip connection included in what follows."""
    import torch

    found = subject("torch-residual", "float64")
    (x,) = found.case.draw(2, "float64")
    got = found.compile(method, wrt="norm1")(x, target=1)
    assert got.shape == (2, 4, 5, 5)
    if method == "gradient":
        model = found.reference.model
        seen: list[Any] = []
        handle = model.norm1.register_forward_hook(lambda _, __, out: seen.append(out))
        out = model(torch.tensor(x, requires_grad=True))
        handle.remove()
        (want,) = torch.autograd.grad(out[:, 1].sum(), seen)
        assert_close([got], [want.numpy()], 1e-10)


@pytest.mark.parametrize("label", ["torch-bert", "tensorflow-tokens"])
def test_a_layer_is_complete_too(label: str) -> None:
    found = subject(label, "float64")
    arrays = found.case.draw(2, "float64")
    x = found.reference.points(arrays)
    b = x[0][::-1] * 0.5
    explain = Explainer.compile(
        found.model,
        methods.IntegratedGradients(128),
        inputs=found.case.given(arrays),
        **found.case.options(),
    )
    result = explain.explanation(found.case.given(arrays), target=1, baseline=b)
    assert result.attributions.shape == x[0].shape
    change = (found.reference.output(x, arrays) - found.reference.output([b], arrays))[:, 1]
    np.testing.assert_allclose(result.attributions.reshape(2, -1).sum(1), change, rtol=2e-2)
    np.testing.assert_allclose(result.outputs, found.reference.output(x, arrays), rtol=1e-9)


# --- kinds of model --------------------------------------------------------------------------


def test_an_exported_program() -> None:
    import torch

    found = subject("torch-mlp", "float64")
    (x,) = found.case.draw(4, "float64")
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(found.reference.model, (torch.tensor(x),), dynamic_shapes=batch)
    explain = Explainer.compile(program, "integrated_gradients")  # carries its own signature
    assert explain.stats.traces == 1
    want = Explainer.compile(found.model, "integrated_gradients", inputs=x)(x, target=2)
    assert_close([explain(x, target=2)], [want], 1e-12)


def test_a_saved_model(tmp_path: Path) -> None:
    found = subject("tensorflow-functional", "float32")
    (x,) = found.case.draw(3, "float32")
    found.model.export(tmp_path / "saved", verbose=False)
    explain = Explainer.compile(str(tmp_path / "saved"), "saliency")
    assert explain.stats.traces == 1
    assert_close([explain(x, target=2)], [found.compile("saliency")(x, target=2)], 1e-5)


def test_a_module_and_a_function_of_tensorflow() -> None:
    import tensorflow as tf

    class Module(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable([[1.0, 2.0], [3.0, 4.0]])

        def __call__(self, x: Any) -> Any:
            return tf.nn.relu(x @ self.w)

    module = Module()
    x = np.array([[1.0, 1.0], [-1.0, 2.0]], np.float32)
    want = np.array([[1.0, 3.0], [1.0, 3.0]])
    for model in (module, tf.function(module.__call__)):
        np.testing.assert_array_equal(Explainer.compile(model, "gradient", inputs=x)(x, target=0), want)


def test_keras_models_carry_their_signature() -> None:
    found = subject("tensorflow-functional", "float32")
    explain = Explainer.compile(found.model, "gradient")
    assert explain.stats.traces == 1
    assert explain.signature.inputs[0].sample_shape == (5, 5, 2)
    assert explain.signature.names == ("image",)


@pytest.mark.parametrize("label", LABELS)
def test_specs_are_enough_to_compile(label: str) -> None:
    found = subject(label, "float32")
    explain = Explainer.compile(found.model, "feature_ablation", inputs=TensorSpec((None, 5), "float32", "pixels"))
    assert explain.stats.traces == 1
    assert explain(found.case.draw(2, "float32")[0], target=0).shape == (2, 5)


def test_the_function_of_an_estimator() -> None:
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    data, labels = load_iris(return_X_y=True)
    classifier = LogisticRegression(max_iter=500).fit(data, labels)
    explain = Explainer.compile(classifier.decision_function, "feature_ablation", baseline=data.mean(0))
    got = explain(data[:5], target=labels[:5])
    np.testing.assert_allclose(got, (data[:5] - data.mean(0)) * classifier.coef_[labels[:5]], atol=1e-10)


# --- what it shows ---------------------------------------------------------------------------


@pytest.mark.parametrize("label", LABELS)
def test_before_the_first_call_an_untraced_model_says_so(label: str) -> None:
    found = subject(label, "float32")
    explain = Explainer.compile(found.model, "feature_ablation", inputs=None)
    if explain.stats.traces:  # a Keras model carries its signature
        assert label == "tensorflow-sequential"
        return
    for show in (lambda: explain.graph, lambda: explain.native, lambda: explain.warmup(2), lambda: explain.coverage):
        with pytest.raises(errors.InputError, match=r"needs a traced model.*Give inputs="):
            show()
    explain(found.case.draw(2, "float32")[0], target=0)
    assert explain.stats.traces == 1


@pytest.mark.parametrize("label", ["torch-mlp", "tensorflow-sequential"])
def test_graph_coverage_and_native(label: str) -> None:
    explain, _ = compiled(label, "guided_backprop")
    text = str(explain.graph)
    assert "relu" in text.lower()
    assert text.splitlines()[-1].startswith("return ")
    rules = {row.rule: row.count for row in explain.coverage if row.role == "univariate"}
    assert rules == {"guided_relu": 2}
    assert "guided_relu" in str(explain.coverage)
    assert str(explain.stats.compiled_shapes) == "['any rows']"
    assert repr(explain).startswith("Explainer(GuidedBackprop(), ")


def test_native_is_the_compiled_function_itself() -> None:
    import torch

    explain, (x,) = compiled("torch-mlp", "gradient")
    assert isinstance(explain.native, torch.jit.ScriptModule)
    given = {"mask": torch.nn.functional.one_hot(torch.tensor([1] * 4), 3).float(), "choose": torch.tensor(0.0)}
    arguments = [given.get(name, torch.tensor(x)) for name in explain.placeholders]
    _, result = explain.native(*arguments)
    np.testing.assert_allclose(result.detach().numpy(), explain(x, target=1), rtol=1e-6)


def test_native_of_tensorflow_is_a_concrete_function() -> None:
    import tensorflow as tf

    explain, (x,) = compiled("tensorflow-sequential", "gradient")
    assert isinstance(explain.native, tf.types.experimental.ConcreteFunction)
    given = {"mask": tf.one_hot([1] * 4, 3), "choose": tf.constant(0.0)}
    results = explain.native(*[given.get(name, tf.constant(x)) for name in explain.placeholders])
    parts = results if isinstance(results, (tuple, list)) else list(results.values())
    np.testing.assert_allclose(parts[1].numpy(), explain(x, target=1), rtol=1e-6)


@pytest.mark.parametrize("label", ["torch-mlp", "tensorflow-sequential"])
def test_an_explanation(label: str) -> None:
    explain, (x,) = compiled(label, "smoothgrad-mean", "float64")
    result = explain.explanation(x, target=[0, 1, 2, 0], seed=3)
    assert isinstance(result, Explanation)
    np.testing.assert_array_equal(result.attributions, explain(x, target=[0, 1, 2, 0], seed=3))
    np.testing.assert_allclose(result.outputs, subject(label, "float64").reference.output([x], [x]), rtol=1e-12)
    assert result.target.tolist() == np.eye(3)[[0, 1, 2, 0]].tolist()
    assert result.standard_error.shape == x.shape
    assert result.standard_error.max() > 0
    assert result.completeness_gap is None
    assert result.baseline_outputs is None


@pytest.mark.parametrize("label", ["torch-mlp", "tensorflow-sequential"])
@pytest.mark.parametrize("method", ["gradient", "integrated_gradients-midpoint", "smoothgrad-mean", "gradient_shap"])
def test_the_automatic_batch_size_changes_nothing(label: str, method: str) -> None:
    explain, (x,) = compiled(label, method, "float64")
    assert explain.stats.batch_size >= 1
    small, _ = compiled(label, method, "float64", batch_size=1)
    assert_close([explain(x, target=1)], [small(x, target=1)], 1e-10)
