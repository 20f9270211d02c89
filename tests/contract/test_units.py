"""Units inside the model: a layer as the output, conductance, influence and Grad-CAM; against plain loops."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, Scheduler, methods
from explainers.errors import BaselineError, InputError, UnknownNameError

from . import zoo
from .naive import quadrature

torch = pytest.importorskip("torch")
N, STEPS = 3, 11


def trained(label: str) -> tuple[Any, np.ndarray]:
    """A trained network in float64, and samples of it."""
    member, framework = zoo.member(label), zoo.framework(label)
    model = member.build("float64")
    framework.load(model, zoo.trained(label), 1.0)
    return model, zoo.data(label).held_out[:N].astype(np.float64)


@pytest.fixture(scope="module")
def residual() -> tuple[Any, np.ndarray]:
    return trained("torch-residual")


@pytest.fixture(scope="module")
def keras_cnn() -> tuple[Any, np.ndarray]:
    pytest.importorskip("keras")
    return trained("tensorflow-cnn")


class Torch:
    """A network cut at a module: what comes out of it, and the derivative of the target by that."""

    def __init__(self, model: Any, layer: Any) -> None:
        self.model, self.layer = model, layer

    def at(self, x: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
        kept = []
        handle = self.layer.register_forward_hook(lambda module, given, out: kept.append(out))
        try:
            value = self.model(torch.tensor(x, requires_grad=True))[:, target].sum()
        finally:
            handle.remove()
        (slope,) = torch.autograd.grad(value, kept[0])
        return kept[0].detach().numpy(), slope.numpy()


class Keras:
    def __init__(self, model: Any, layer: str) -> None:
        import keras

        self.head = keras.Model(model.inputs, model.get_layer(layer).output)
        rest = keras.Input(self.head.output.shape[1:], dtype="float64")
        behind, x = False, rest
        for part in model.layers:
            x = part(x) if behind else x
            behind = behind or part.name == layer
        self.tail = keras.Model(rest, x)

    def at(self, x: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
        import tensorflow as tf

        values = self.head(tf.constant(x))
        with tf.GradientTape() as tape:
            tape.watch(values)
            found = tf.reduce_sum(self.tail(values)[:, target])
        return values.numpy(), tape.gradient(found, values).numpy()


CUTS = {
    "residual": lambda model: ("body.branches.0", Torch(model, model.body.branches[0])),
    "keras_cnn": lambda model: (model.layers[2].name, Keras(model, model.layers[2].name)),
}


@pytest.fixture(params=["residual", "keras_cnn"])
def cut(request: Any) -> tuple[Any, np.ndarray, str, Any]:
    """A model, its samples, a layer's path, and the network cut there."""
    model, x = request.getfixturevalue(request.param)
    return (model, x, *CUTS[request.param](model))


# --- conductance and influence ---------------------------------------------------------------


def test_conductance_equals_a_loop(cut: Any) -> None:
    model, x, path, naive = cut
    b = np.random.default_rng(0).random(x.shape)
    expected = 0.0
    for k in range(STEPS):
        before, middle, after = (b + (k + part) / STEPS * (x - b) for part in (0.0, 0.5, 1.0))
        expected = expected + naive.at(middle, 3)[1] * (naive.at(after, 3)[0] - naive.at(before, 3)[0])
    explain = Explainer.compile(model, methods.LayerConductance(STEPS), inputs=x, wrt=path)
    got = explain(x, target=3, baseline=b)
    assert abs(expected).max() > 1e-4
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-9 * abs(expected).max())
    np.testing.assert_allclose(explain(x, target=3, baseline=b, batch_size=2), got, atol=1e-12)


@pytest.mark.parametrize("kind", ["gauss_legendre", "right", "trapezoid"])
def test_influence_equals_a_loop(cut: Any, kind: str) -> None:
    model, x, path, naive = cut
    expected = sum(w * naive.at(alpha * x, 5)[1] for alpha, w in quadrature(kind, STEPS))
    explain = Explainer.compile(model, methods.InternalInfluence(STEPS, kind), inputs=x, wrt=path)
    assert abs(expected).max() > 1e-4
    np.testing.assert_allclose(explain(x, target=5), expected, rtol=1e-7, atol=1e-9 * abs(expected).max())


def test_conductance_of_a_net_of_two_layers_by_hand() -> None:
    """s = Σ_j v_j·relu(w_j·x): the unit j conducts v_j·(relu(w_j·x) − relu(w_j·b)), at any number of steps."""
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=(6, 4)), generator.normal(size=(1, 6))
    model = torch.nn.Sequential(torch.nn.Linear(4, 6, bias=False), torch.nn.ReLU(), torch.nn.Linear(6, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(first))
        model[2].weight.copy_(torch.tensor(second))
    x, b = generator.normal(size=(5, 4)), generator.normal(size=(5, 4))
    expected = second[0] * (np.maximum(x @ first.T, 0) - np.maximum(b @ first.T, 0))
    for steps in (1, 7):
        explain = Explainer.compile(model, methods.LayerConductance(steps), inputs=x, wrt="1")
        np.testing.assert_allclose(explain(x, target=0, baseline=b), expected, atol=1e-12)
    assert "IntegratedGradients" not in str(explain.method)
    before = Explainer.compile(model, methods.LayerConductance(2000), inputs=x, wrt="0")(x, target=0, baseline=b)
    np.testing.assert_allclose(before, expected, atol=2e-3)  # the derivative jumps at a kink within a stretch


def test_conductance_adds_up(residual: Any) -> None:
    """The stem is a cut of the network: what flows through it is all of the change."""
    model, x = residual
    explain = Explainer.compile(model, methods.LayerConductance(400), inputs=x, wrt="body.stem")
    found = explain.explanation(x, target=2, baseline=0.5)
    change = (found.outputs - found.baseline_outputs)[:, 2]
    total = found.attributions.reshape(N, -1).sum(1)
    np.testing.assert_allclose(total, change, atol=2e-3 * abs(change).max())


@pytest.mark.parametrize("method", [methods.LayerConductance(4), methods.InternalInfluence(4)])
def test_use_of_methods_along_the_inputs(residual: Any, method: Any) -> None:
    """Files, schedulers, fewer steps, baselines of all forms, static engines."""
    model, x = residual
    explain = Explainer.compile(model, method, inputs=x, wrt="body.branches.1")
    b = np.random.default_rng(2).random(x.shape)
    whole = explain(x, target="max", baseline=b)
    for i in range(N):
        np.testing.assert_allclose(explain(x[i : i + 1], target="max", baseline=b[i]), whole[i : i + 1], atol=1e-12)
    np.testing.assert_allclose(explain(x, target="max", baseline=lambda batch: 0 * batch + b), whole, atol=1e-12)
    file = io.BytesIO()
    explain.save(file)
    np.testing.assert_allclose(Explainer.load(file.getvalue())(x, target="max", baseline=b), whole, atol=1e-12)
    with Scheduler() as scheduler:
        found = [scheduler.submit(explain, x[i : i + 1], target="max", baseline=b[i : i + 1]) for i in range(N)]
        parts = [future.result().attributions for future in found]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-9)
    finer = explain.replace(steps=9)(x, target="max", baseline=b)
    direct = Explainer.compile(model, type(method)(9), inputs=x, wrt="body.branches.1")
    np.testing.assert_allclose(finer, direct(x, target="max", baseline=b), atol=1e-12)
    assert explain(x[:0], target=1).shape == (0, 8, 8, 8)
    with pytest.raises(BaselineError, match=r"\(3, 1, 8, 8\)"):
        explain(x, target=1, baseline=np.zeros((2, 5)))


def test_tokens_have_no_path() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Flatten(), torch.nn.Linear(12, 2))
    with pytest.raises(InputError, match="floating-point"):
        Explainer.compile(model, "layer_conductance", inputs=np.zeros((1, 3), np.int64), wrt="0")


# --- Grad-CAM --------------------------------------------------------------------------------


def by_hand(naive: Any, x: np.ndarray, target: int, relu: bool) -> np.ndarray:
    values, slope = naive.at(x, target)
    channels = 1 if isinstance(naive, Torch) else 3
    places = tuple(axis for axis in (1, 2, 3) if axis != channels)
    found = (slope.mean(places, keepdims=True) * values).sum(channels)
    return np.maximum(found, 0) if relu else found


@pytest.mark.parametrize("relu", [True, False])
def test_grad_cam_equals_one_by_hand(cut: Any, relu: bool) -> None:
    model, x, path, naive = cut
    explain = Explainer.compile(model, methods.GradCam(relu=relu), inputs=x, wrt=path)
    for target in (0, 4):
        expected = by_hand(naive, x, target, relu)
        largest = abs(by_hand(naive, x, target, False)).max()  # tiny behind a sharp softmax
        assert largest > 0
        np.testing.assert_allclose(explain(x, target=target), expected, rtol=1e-7, atol=1e-9 * largest)
    assert explain.attributed[0].sample_shape == expected.shape[1:]
    assert explain(x[:0], target=0).shape == (0, *expected.shape[1:])


@pytest.mark.parametrize("shape", [(7,), (5, 6), (3, 4, 5)])
@pytest.mark.parametrize("size", [11, 2])
def test_stretching_is_linear_interpolation(shape: tuple[int, ...], size: int) -> None:
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    kind = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[len(shape)]
    model = torch.nn.Sequential(kind(2, 4, 1), torch.nn.Flatten(), torch.nn.Linear(4 * int(np.prod(shape)), 3)).double()
    x = np.random.default_rng(0).normal(size=(N, 2, *shape))
    wanted = (size,) * len(shape)
    small = Explainer.compile(model, methods.GradCam(relu=False), inputs=x, wrt="0")(x, target=1)
    large = Explainer.compile(model, methods.GradCam(relu=False, upsample=wanted), inputs=x, wrt="0")(x, target=1)
    expected = torch.nn.functional.interpolate(torch.tensor(small)[:, None], wanted, mode=mode, align_corners=False)
    np.testing.assert_allclose(large, expected[:, 0].numpy(), atol=1e-12)


@pytest.mark.parametrize("layer", ["body.branches.0", "body.stem"])
def test_guided_grad_cam_equals_its_two_parts(residual: Any, layer: str) -> None:
    model, x = residual
    explain = Explainer.compile(model, methods.GuidedGradCam(layer), inputs=x)
    guided = Explainer.compile(model, "guided_backprop", inputs=x)
    cam = Explainer.compile(model, methods.GradCam(upsample=True), inputs=x, wrt=layer)
    found = 0.0
    for target in range(10):
        expected = guided(x, target=target) * cam(x, target=target)[:, None]
        np.testing.assert_allclose(explain(x, target=target), expected, atol=1e-12)
        found = max(found, abs(expected).max())
    assert found > 1e-4
    file = io.BytesIO()
    explain.save(file)
    np.testing.assert_allclose(Explainer.load(file.getvalue())(x, target=9), expected, atol=1e-12)


def test_guided_grad_cam_of_keras(keras_cnn: Any) -> None:
    model, x = keras_cnn
    layer = model.layers[2].name
    explain = Explainer.compile(model, methods.GuidedGradCam(layer, logits=True), inputs=x)
    guided = Explainer.compile(model, "guided_backprop", inputs=x, output=model.layers[-1].name)
    cam = Explainer.compile(model, methods.GradCam(upsample=True, logits=True), inputs=x, wrt=layer)
    assert explain(x, target=1).shape == guided(x, target=1).shape == x.shape
    assert cam(x, target=1).shape == (N, 8, 8)
    tape = zoo.framework("tensorflow-cnn").gradient  # zero where no part of the map speaks for the class
    assert (explain(x, target=1)[cam(x, target=1)[..., None] == 0] == 0).all()
    assert tape(model, x, np.ones(N, int)).shape == x.shape


def test_errors(residual: Any) -> None:
    model, x = residual
    with pytest.raises(InputError, match="one layer with an axis of channels"):
        Explainer.compile(model, "grad_cam", inputs=x, wrt="body.head")
    with pytest.raises(InputError, match="layer='path"):
        Explainer.compile(model, "guided_grad_cam", inputs=x)
    with pytest.raises(UnknownNameError, match=r"body\.branches"):
        Explainer.compile(model, methods.GuidedGradCam("body.branchs.0"), inputs=x)
    with pytest.raises(InputError, match="has 1 axes"):
        Explainer.compile(model, methods.GradCam(upsample=(3,)), inputs=x, wrt="body.stem")
    with pytest.raises(UnknownNameError, match="output or layer"):
        Explainer.compile(model, "gradient", inputs=x, output="body.hed")


# --- a layer as the output -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradient", "deeplift", "lrp", "integrated_gradients", "feature_ablation"])
def test_a_layer_as_the_output(residual: Any, method: str) -> None:
    model, x = residual

    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model.body

        def forward(self, x: Any) -> Any:
            return self.body.stem(x)

    explain = Explainer.compile(model, method, inputs=x, output="body.stem")
    expected = Explainer.compile(Part().eval(), method, inputs=x)
    neuron = (3, 4, 2)
    np.testing.assert_allclose(explain(x, target=neuron), expected(x, target=neuron), atol=1e-12)
    np.testing.assert_allclose(explain.predict(x), model.body.stem(torch.tensor(x)).detach().numpy(), atol=1e-12)
    assert explain.output.name == "body.stem"


def test_a_layer_as_the_output_in_keras(keras_cnn: Any) -> None:
    import tensorflow as tf

    model, x = keras_cnn
    layer = model.layers[2]
    explain = Explainer.compile(model, "gradient", inputs=x, output=layer.name)
    point = tf.constant(x)
    head = Keras(model, layer.name).head
    with tf.GradientTape() as tape:
        tape.watch(point)
        value = tf.reduce_sum(head(point)[:, 1, 2, 5])
    np.testing.assert_allclose(explain(x, target=(1, 2, 5)), tape.gradient(value, point).numpy(), atol=1e-12)


def test_a_layer_with_several_outputs_or_calls() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.same = torch.nn.LSTM(3, 4, batch_first=True), torch.nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            out, (last, _) = self.cell(x)
            return self.same(torch.relu(self.same(out[:, -1]))) + last[0]

    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    with pytest.raises(UnknownNameError, match="runs 2 times"):
        Explainer.compile(Twice(), "gradient", inputs=x, output="same")
    explain = Explainer.compile(Twice(), "gradient", inputs=x, output="same@0")
    assert explain(x, target=2).shape == x.shape


# --- several layers at once ------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradient", "input_x_gradient", "guided_backprop", methods.LayerConductance(3)])
def test_several_layers_at_once(residual: Any, method: Any) -> None:
    """Layers one behind the other, and the input, each as it is attributed alone."""
    model, x = residual
    places = ["body.stem", "body.branches.1", *([] if isinstance(method, methods.LayerConductance) else ["input"])]
    names = [Explainer.compile(model, "gradient", inputs=x).signature.names[0] if p == "input" else p for p in places]
    explain = Explainer.compile(model, method, inputs=x, wrt=names)
    together = explain(x, target=4)
    assert isinstance(together, tuple)
    for name, found in zip(names, together, strict=True):
        alone = Explainer.compile(model, method, inputs=x, wrt=name)(x, target=4)
        np.testing.assert_allclose(found, alone, rtol=1e-9, atol=1e-12 * abs(alone).max())
    file = io.BytesIO()
    explain.save(file)
    for found, again in zip(together, Explainer.load(file.getvalue())(x, target=4), strict=True):
        np.testing.assert_allclose(again, found, atol=1e-12)
    assert explain.stats.incomplete == 0


def test_several_layers_that_a_method_moves(residual: Any) -> None:
    """Beside one another they may be moved; one behind the other they hide one another."""
    model, x = residual
    for method in ("integrated_gradients", "deeplift", "lrp", "feature_ablation"):
        with pytest.raises(InputError, match="one behind the other"):
            Explainer.compile(model, method, inputs=x, wrt=["body.stem", "body.branches.1"])
    with pytest.raises(InputError, match="same values twice"):
        Explainer.compile(model, "gradient", inputs=x, wrt=["body.stem", "body.stem"])

    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.Embedding(5, 4), torch.nn.Embedding(6, 3)

        def forward(self, a: Any, b: Any, c: Any) -> Any:
            x, y = torch.tanh(torch.cat([self.first(a), c], 1)), torch.tanh(self.second(b))
            return (x[:, :3] * y + x[:, 3:]).sum(1, keepdim=True)

    torch.manual_seed(0)
    pair, c = Two(), np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    a, b = np.array([0, 3, 4]), np.array([5, 1, 2])
    explain = Explainer.compile(pair, "deeplift", inputs=(a, b, c), wrt=["first", "c", "second"], strict=True)
    first, of_c, second = explain(a, b, c, target=0)
    assert (first.shape, of_c.shape, second.shape) == ((3, 4), (3, 2), (3, 3))
    total = first.sum(1) + of_c.sum(1) + second.sum(1)
    np.testing.assert_allclose(total, explain.predict(a, b, c)[:, 0], atol=1e-6)
