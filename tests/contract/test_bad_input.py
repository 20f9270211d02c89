"""Every item under "Bad input": the message says what was given and what to do, and the explainer lives on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, TensorSpec, errors, methods

from .subjects import Subject, subject

LABELS = ["torch-mlp", "tensorflow-sequential", "numpy-mlp"]
PAIRS = ["torch-two_inputs", "tensorflow-two_inputs", "numpy-two_inputs"]
DIFFERENTIABLE = ["torch-mlp", "tensorflow-sequential"]


class Works:
    """An explainer with a good call, which has to give the same after every bad one."""

    def __init__(self, label: str, method: str = "", **options: Any) -> None:
        self.found: Subject = subject(label, "float32")
        method = method or ("feature_ablation" if label.startswith("numpy") else "integrated_gradients-midpoint")
        self.explain = self.found.compile(method, **options)
        self.arrays = self.found.case.draw(4, "float32")
        self.before = self.good()

    def good(self) -> list[np.ndarray]:
        return self.found.case.explain(self.explain, self.arrays, target=1)

    def refuses(self, kind: type[Exception], match: str, *inputs: Any, **options: Any) -> None:
        with pytest.raises(kind, match=match) as caught:
            self.explain(*inputs, **{"target": 1, **options})
        assert isinstance(caught.value, errors.ExplainersError)
        for again, before in zip(self.good(), self.before, strict=True):
            np.testing.assert_array_equal(again, before)


@pytest.fixture(params=LABELS)
def works(request: pytest.FixtureRequest) -> Works:
    return Works(request.param)


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Works:
    return Works(request.param)


# --- inputs ----------------------------------------------------------------------------------


def test_wrong_shape(works: Works) -> None:
    works.refuses(errors.InputError, r"has shape \(4, 6\), the model takes \('N', 5\)", np.zeros((4, 6), "float32"))


def test_missing_batch_axis(works: Works) -> None:
    works.refuses(errors.InputError, r"has shape \(5,\).*batch axis is missing: x\[None\]", np.zeros(5, "float32"))


def test_a_single_number(works: Works) -> None:
    works.refuses(errors.InputError, r"has shape \(\), the model takes \('N', 5\)", np.float32(1))


def test_wrong_dtype(works: Works) -> None:
    works.refuses(errors.InputError, r"has dtype int64, the model takes float32: convert", np.zeros((4, 5), "int64"))


def test_complex(works: Works) -> None:
    works.refuses(errors.InputError, r"dtype complex128, the model takes float32", np.zeros((4, 5), complex))


@pytest.mark.parametrize("given", [[["a", "b"]], object(), [[1.0], [2.0, 3.0]]], ids=["text", "object", "ragged"])
def test_not_an_array(works: Works, given: Any) -> None:
    works.refuses(errors.InputError, r"is not an array", given)


def test_no_inputs(works: Works) -> None:
    works.refuses(errors.InputError, r"no value for \['\w+'\]; the model takes \(\w+: float32\[batch, 5\]\)")


def test_too_many_inputs(works: Works) -> None:
    x = works.arrays[0]
    works.refuses(errors.InputError, r"got 2 positional inputs; the model takes", x, x)


def test_one_input_of_two(pair: Works) -> None:
    works_match = r"no value for \['\w+'\]; the model takes \(.*batch, 4.*batch, 3"
    pair.refuses(errors.InputError, works_match, pair.arrays[0])


def test_unknown_name(works: Works) -> None:
    works.refuses(errors.InputError, r"unknown inputs \['picture'\]", picture=works.arrays[0])


def test_given_twice(pair: Works) -> None:
    name = pair.explain.signature.names[0]
    pair.refuses(errors.InputError, rf"\['{name}'\] twice", *pair.arrays, **{name: pair.arrays[0]})


def test_different_numbers_of_samples(pair: Works) -> None:
    left, right = pair.arrays
    pair.refuses(errors.InputError, r"has 2 samples, the first input 4", left, right[:2])


@pytest.mark.parametrize("size", [0, -1, 2.5, "8"])
def test_batch_size(works: Works, size: Any) -> None:
    works.refuses(errors.InputError, r"batch_size must be a whole number ≥ 1; got", works.arrays[0], batch_size=size)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_names_the_sample(works: Works, bad: float) -> None:
    x = works.arrays[0].copy()
    x[3, 0] = bad
    kind = "NaN" if np.isnan(bad) else "infinity"
    works.refuses(errors.NonFiniteError, rf"{kind} in sample 3 of 4.*allow_nonfinite=True", x)


def test_nonfinite_names_the_sample_behind_packages(works: Works) -> None:
    x = np.tile(works.arrays[0], (5, 1))
    x[17, 0] = np.nan
    works.refuses(errors.NonFiniteError, r"NaN in sample 17 of 20", x, batch_size=4)


@pytest.mark.parametrize("label", DIFFERENTIABLE)
def test_examples_that_do_not_fit_the_model(label: str) -> None:
    model = subject(label, "float32").model
    with pytest.raises((errors.InputError, errors.TraceError), match=r"shape|dimension|incompatible|\b6\b"):
        Explainer.compile(model, "gradient", inputs=np.zeros((2, 6), "float32"))(np.zeros((2, 6), "float32"), target=0)


def test_an_axis_that_varies_and_a_method_that_needs_its_size() -> None:
    with pytest.raises(errors.InputError, match=r"'ism' needs all sizes but the batch's"):
        Explainer.compile(lambda x: x.sum(axis=(1, 2)), "ism", inputs=TensorSpec((None, None, 4)))


# --- targets ---------------------------------------------------------------------------------

BAD_TARGETS: list[tuple[Any, str]] = [
    (3, r"target 3 at position 0 is out of range.*shape \(3,\)"),
    (-1, r"target -1 at position 0 is out of range"),
    ([0, 1, 2, 3], r"target 3 at position 3 is out of range"),
    ([0, 1, 2], r"3 targets for 4 samples"),
    (None, r"no target given.*shape \(3,\) for each of 4 samples.*an int.*'max'"),
    (1.5, r"neither integers nor a mask"),
    ([0.0, 1.5, 2.0, 1.0], r"position 1: 1.5"),
    ([0.0, float("nan"), 1.0, 2.0], r"position 1: nan"),
    (np.array([0.0, np.inf, 1.0]), r"mask is not finite at \(1,\)"),
    ((1, 2), r"does not index an output of 1 axes"),
    ([[0, 1]] * 4, r"does not index an output of 1 axes"),
    ([[0], [0, 1]], r"ragged"),
    ("largest", r"unknown target 'largest'"),
    (np.zeros((2, 3)), r"neither integers nor a mask"),
]


@pytest.mark.parametrize(("target", "match"), BAD_TARGETS, ids=[str(t)[:30] for t, _ in BAD_TARGETS])
def test_bad_target(works: Works, target: Any, match: str) -> None:
    works.refuses(errors.TargetError, match, works.arrays[0], target=target)


@pytest.mark.parametrize("label", DIFFERENTIABLE)
def test_all_targets_need_a_forward_only_method(label: str) -> None:
    works = Works(label)
    works.refuses(errors.TargetError, r"target='all' needs a forward-only method", works.arrays[0], target="all")


@pytest.mark.parametrize("label", ["torch-dict", "tensorflow-dict"])
def test_several_outputs_need_a_choice(label: str) -> None:
    found = subject(label, "float32")
    inputs = found.case.given(found.case.draw(2, "float32"))
    with pytest.raises(errors.TargetError, match=r"several outputs; pick one with output=.*'hidden'.*'logits'"):
        Explainer.compile(found.model, "gradient", inputs=inputs)
    with pytest.raises(errors.UnknownNameError, match=r"unknown output or layer 'logit'.*'?logits"):
        Explainer.compile(found.model, "gradient", inputs=inputs, output="logit")


# --- baselines -------------------------------------------------------------------------------

BAD_BASELINES: list[tuple[Any, str]] = [
    (np.zeros(4), r"baseline of shape \(4,\) for .*one sample \(5,\).*one per sample \(4, 5\)"),
    (np.zeros((3, 5)), r"baseline of shape \(3, 5\)"),
    (np.nan, r"baseline for .* has NaN or infinity"),
    ("black", r"baseline"),
    ((0.0, 0.0), r"2 baselines for 1 attributed inputs"),
    ({"picture": 0.0}, r"baselines for \['picture'\]; the attributed inputs are"),
    (lambda batch: batch[:, :2], r"baseline of shape \(4, 2\)"),
]


@pytest.mark.parametrize(("baseline", "match"), BAD_BASELINES, ids=range(len(BAD_BASELINES)))
def test_bad_baseline(works: Works, baseline: Any, match: str) -> None:
    works.refuses(errors.BaselineError, match, works.arrays[0], baseline=baseline)


@pytest.mark.parametrize("label", DIFFERENTIABLE)
def test_references_where_one_baseline_fits(label: str) -> None:
    works = Works(label)
    given = References(np.zeros((3, 5)))
    works.refuses(
        errors.BaselineError, r"takes one baseline for each sample, not References", works.arrays[0], baseline=given
    )


@pytest.mark.parametrize("label", DIFFERENTIABLE)
def test_bad_references(label: str) -> None:
    works = Works(label, "gradient_shap")
    x = works.arrays[0]
    match = r"References of shape \(5,\) .* expected \('B', 5\)"
    works.refuses(errors.BaselineError, match, x, baseline=References(np.zeros(5)))
    works.refuses(errors.BaselineError, r"B ≥ 1", x, baseline=References(np.zeros((0, 5))))


@pytest.mark.parametrize("label", DIFFERENTIABLE)
def test_a_baseline_where_there_is_none(label: str) -> None:
    works = Works(label, "gradient")
    works.refuses(errors.BaselineError, r"method 'gradient' has no baseline", works.arrays[0], baseline=0.0)


def test_one_baseline_for_two_inputs(pair: Works) -> None:
    match = r"one baseline array for 2 attributed inputs"
    pair.refuses(errors.BaselineError, match, *pair.arrays, baseline=np.zeros(4))


@pytest.mark.parametrize("seed", [1.5, "one", [1, 2]])
@pytest.mark.parametrize("label", DIFFERENTIABLE)
def test_bad_seed(label: str, seed: Any) -> None:
    works = Works(label, "smoothgrad-mean")
    works.refuses(errors.InputError, r"seed must be an int, or 4 ints", works.arrays[0], seed=seed)


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("label", LABELS)
def test_unknown_names(label: str) -> None:
    found = subject(label, "float32")
    x = found.case.draw(2, "float32")[0]
    refused: list[tuple[dict[str, Any], str]] = [
        ({"method": "integrated_gradient"}, r"unknown method 'integrated_gradient'.*integrated_gradients"),
        ({"method": 7}, r"unknown method 7"),
        ({"engine": "graf"}, r"unknown engine 'graf' of backend '\w+'. .*eager"),
        ({"backend": "tensor"}, r"unknown backend 'tensor'.*numpy.*tensorflow.*torch"),
        ({"wrt": "pixels"}, r"unknown input( or layer)? 'pixels'"),
        ({"wrt": 3}, r"unknown input( or layer)? 3"),
    ]
    for options, match in refused:
        options = {"method": "feature_ablation", **options}
        with pytest.raises(errors.UnknownNameError, match=match):
            Explainer.compile(found.model, inputs=x, **options)


@pytest.mark.parametrize(("label", "near"), [("torch-bert", "bert.embeddings"), ("tensorflow-tokens", "embeddings")])
def test_unknown_layer_lists_the_near_ones(label: str, near: str) -> None:
    found = subject(label, "float32")
    inputs = found.case.given(found.case.draw(2, "float32"))
    with pytest.raises(errors.UnknownNameError, match=f"unknown input or layer.*{near}"):
        Explainer.compile(found.model, "gradient", inputs=inputs, wrt="bert.embedings", output=found.case.output)


@pytest.mark.parametrize("label", ["torch-tokens", "tensorflow-tokens"])
def test_integers_cannot_be_attributed(label: str) -> None:
    found = subject(label, "float32")
    inputs = found.case.given(found.case.draw(2, "float32"))
    with pytest.raises(errors.InputError, match=r"no input is floating-point.*wrt= a layer.*embeddings"):
        Explainer.compile(found.model, "gradient", inputs=inputs)
    with pytest.raises(errors.InputError, match=r"which 'gradient' needs; attribute a layer behind it"):
        Explainer.compile(found.model, "gradient", inputs=inputs, wrt=0)


def test_a_layer_that_runs_three_times() -> None:
    found = subject("torch-reused", "float64")
    (x,) = found.case.draw(2, "float64")
    with pytest.raises(errors.UnknownNameError, match=r"layer 'relu' runs 3 times; name one call: relu@0, relu@1"):
        Explainer.compile(found.model, "gradient", inputs=x, wrt="relu")
    last = Explainer.compile(found.model, "gradient", inputs=x, wrt="relu@2")(x, target=1)
    np.testing.assert_allclose(last, np.tile(found.model.head.weight[1].detach().numpy(), (2, 1)))


def test_not_a_model() -> None:
    with pytest.raises(errors.InputError, match=r"no backend takes a model of type .*\. Give a torch.nn.Module"):
        Explainer.compile(object(), "gradient")


def test_a_scikit_learn_estimator_says_which_function_to_give() -> None:
    from sklearn.linear_model import LogisticRegression

    with pytest.raises(errors.InputError, match=r"Give the function .*model\.predict_proba"):
        Explainer.compile(LogisticRegression(), "feature_ablation")


def test_gradients_of_a_plain_callable() -> None:
    with pytest.raises(errors.UnsupportedOperation, match=r"'saliency' needs the derivative.*'feature_ablation'"):
        Explainer.compile(lambda x: x, "saliency")


@pytest.mark.parametrize("size", [0, -3, 1.5])
def test_batch_size_of_compile(size: Any) -> None:
    with pytest.raises(errors.InputError, match=r"batch_size must be a whole number ≥ 1, or None"):
        Explainer.compile(lambda x: x, "feature_ablation", batch_size=size)


def test_dtype_of_compile() -> None:
    with pytest.raises(errors.InputError, match=r"dtype must be 'float32', 'float64' or 'bfloat16'"):
        Explainer.compile(lambda x: x, "feature_ablation", dtype="int8")


BAD_METHODS: list[tuple[Callable[[], Any], str]] = [
    (lambda: methods.IntegratedGradients(steps=0), r"steps must be a whole number ≥ 1; got 0"),
    (lambda: methods.IntegratedGradients(steps=1, quadrature="trapezoid"), r"steps must be a whole number ≥ 2"),
    (lambda: methods.IntegratedGradients(quadrature="simpson"), r"quadrature must be one of .*'midpoint'"),
    (lambda: methods.IntegratedGradients(tolerance=0), r"tolerance must be above 0"),
    (lambda: methods.SmoothGrad(samples=True), r"samples must be a whole number"),
    (lambda: methods.SmoothGrad(noise=-1), r"noise must be a number ≥ 0"),
    (lambda: methods.SmoothGrad(kind="median"), r"kind must be one of 'mean', 'squared', 'variance'"),
    (lambda: methods.GradientShap(samples=0), r"samples must be a whole number ≥ 1"),
]


@pytest.mark.parametrize(("make", "match"), BAD_METHODS, ids=range(len(BAD_METHODS)))
def test_bad_options_of_methods(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(errors.InputError, match=match):
        make()


BAD_GROUPS: list[tuple[Any, str]] = [
    (np.zeros(4, int), r"groups of shape \(4,\) do not broadcast to a sample of shape \(5,\)"),
    (np.zeros(5), r"groups must hold integer feature ids; got dtype float64"),
    ((np.zeros(5, int), np.zeros(5, int)), r"2 group maps for 1 attributed inputs"),
]


@pytest.mark.parametrize(("groups", "match"), BAD_GROUPS, ids=range(len(BAD_GROUPS)))
@pytest.mark.parametrize("label", LABELS)
def test_bad_groups(label: str, groups: Any, match: str) -> None:
    found = subject(label, "float32")
    with pytest.raises(errors.InputError, match=match):
        Explainer.compile(found.model, methods.FeatureAblation(groups=groups), inputs=found.case.draw(2, "float32")[0])


# --- models ----------------------------------------------------------------------------------


def line_of(function: Any, text: str) -> str:
    """``this file:number`` of the line of ``function`` that holds ``text``."""
    lines, first = inspect.getsourcelines(function)
    number = first + next(i for i, line in enumerate(lines) if text in line)
    return f"{Path(__file__).name}:{number}"


def torch_branch() -> tuple[Any, Any]:
    import torch

    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:  # the branch
                return x * 2
            return x

    return Branching(), Branching.forward


def tensorflow_branch() -> tuple[Any, Any]:
    import keras

    class Branching(keras.Model):
        def call(self, x: Any) -> Any:
            number = float(x[0, 0])  # the branch
            return x * number

    model = Branching()
    model.built = True
    return model, Branching.call


def numpy_raising() -> tuple[Any, Any]:
    def model(x: np.ndarray) -> np.ndarray:
        return x.sum()  # a number for the whole batch

    return model, model


@pytest.mark.parametrize("make", [torch_branch, tensorflow_branch], ids=["torch", "tensorflow"])
def test_data_dependent_control_flow_names_the_line(make: Callable[[], tuple[Any, Any]]) -> None:
    model, function = make()
    with pytest.raises(errors.TraceError) as caught:
        Explainer.compile(model, "gradient", inputs=np.ones((2, 3), "float32"))
    message = str(caught.value)
    assert line_of(function, "# the branch") in message
    assert "where" in message or "numpy" in message  # what to do


def test_a_callable_that_loses_the_batch() -> None:
    model, _ = numpy_raising()
    with pytest.raises(errors.TraceError, match=r"returned shape \(\) for \d+ samples?; .*one row for each sample"):
        Explainer.compile(model, "feature_ablation")(np.ones((2, 3)))


def test_a_model_that_returns_no_tensor() -> None:
    import torch

    class Silent(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> int:
            return 3

    with pytest.raises(errors.TraceError, match="returns no tensor"):
        Explainer.compile(Silent(), "gradient", inputs=np.ones((2, 3), "float32"))


def test_a_model_that_draws_random_numbers() -> None:
    import torch

    class Noisy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(x, 0.5)  # always on

    with pytest.raises(errors.TraceError, match=r"draws random numbers.*F\.dropout needs training=self\.training") as c:
        Explainer.compile(Noisy(), "gradient", inputs=np.ones((2, 3), "float32"))
    assert line_of(Noisy.forward, "# always on") in str(c.value)


def test_a_batch_size_written_into_the_model() -> None:
    import torch

    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(3, 4)

    with pytest.raises(errors.TraceError, match=r"one batch size only.*x\.shape\[0\]"):
        Explainer.compile(Fixed(), "gradient", inputs=np.ones((3, 4), "float32"))


def test_an_operation_without_derivative_names_itself() -> None:
    import torch

    @torch.library.custom_op("tests_contract::cube", mutates_args=(), schema="(Tensor x) -> Tensor")
    def cube(x: torch.Tensor) -> torch.Tensor:
        return x**3

    cube.register_fake(lambda x: torch.empty_like(x))

    class Inner(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return cube(x)

    model = torch.nn.Sequential(torch.nn.Linear(3, 3), Inner(), torch.nn.Linear(3, 2))
    x = np.ones((2, 3), "float32")
    with pytest.raises(errors.UnsupportedOperation) as caught:
        Explainer.compile(model, "guided_backprop", inputs=x)(x, target=0)
    message = str(caught.value)
    for part in ("tests_contract.cube", "node 'cube'", "module '1'", "rule set 'guided_backprop'"):
        assert part in message
    Explainer.compile(model, "feature_ablation", inputs=x)(x, target=0)  # needs no derivative


def test_an_operation_of_tensorflow_without_derivative_names_itself() -> None:
    import keras
    import tensorflow as tf

    class Hue(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.raw_ops.AdjustHue(images=x, delta=0.1)

    model = keras.Sequential([keras.Input((2, 2, 3)), Hue(name="shifted"), keras.layers.Flatten()])
    x = np.ones((2, 2, 2, 3), "float32")
    with pytest.raises(errors.UnsupportedOperation) as caught:
        Explainer.compile(model, "guided_backprop", inputs=x)(x, target=0)
    for part in ("operation 'AdjustHue'", "/AdjustHue'", "module 'shifted'", "rule set 'guided_backprop'"):
        assert part in str(caught.value)
    Explainer.compile(model, "feature_ablation", inputs=x)(x, target=0)  # needs no derivative


# --- an empty batch --------------------------------------------------------------------------


@pytest.mark.parametrize("label", [*LABELS, "torch-cnn", "tensorflow-functional"])
def test_an_empty_batch_gives_an_empty_result(label: str) -> None:
    works = Works(label)
    shape = works.arrays[0].shape[1:]
    empty = works.explain(works.arrays[0][:0], target=[])
    assert empty.shape == (0, *shape)
    assert empty.dtype == np.float32
    whole = works.explain.explanation(works.arrays[0][:0], target=1)
    assert whole.attributions.shape == (0, *shape)
    assert whole.outputs.shape[0] == 0
    np.testing.assert_array_equal(works.good()[0], works.before[0])


@pytest.mark.parametrize("label", PAIRS)
def test_an_empty_batch_of_two_inputs(label: str) -> None:
    works = Works(label)
    left, right = works.explain(*(a[:0] for a in works.arrays), target=0)
    assert (left.shape, right.shape) == ((0, 4), (0, 3))


@pytest.mark.parametrize("label", LABELS)
def test_an_empty_batch_under_all_targets(label: str) -> None:
    works = Works(label, "feature_ablation")
    assert works.explain(works.arrays[0][:0], target="all").shape == (3, 0, 5)


def test_an_empty_batch_keeps_its_framework() -> None:
    import torch

    works = Works("torch-mlp")
    empty = works.explain(torch.zeros(0, 5, dtype=torch.float64), target=1)
    assert isinstance(empty, torch.Tensor)
    assert (empty.shape, empty.dtype) == ((0, 5), torch.float64)


@pytest.mark.parametrize("label", ["torch-tokens", "tensorflow-tokens"])
def test_an_empty_batch_behind_a_layer(label: str) -> None:
    found = subject(label, "float32")
    explain = found.compile("gradient")
    (empty,) = found.case.explain(explain, [a[:0] for a in found.case.draw(2, "float32")], target=1)
    assert empty.shape == (0, 5, 6)
    assert empty.dtype == np.float32
