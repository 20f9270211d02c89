"""Derivatives of every output in one call equal those of one output after the other, on torch and on TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, methods
from explainers.errors import TargetError, UnsupportedOperation

X = np.random.default_rng(0).normal(size=(5, 6, 8)).astype("float32")
METHODS = [
    methods.Saliency(), methods.InputXGradient(), methods.IntegratedGradients(6),
    methods.SmoothGrad(4, kind="variance"), methods.GradientShap(4),
]  # fmt: skip


def of_torch() -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        """Norms, attention, gates and a maximum, with an output of two axes."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Conv1d(6, 6, 3, padding=1)
            self.norm = torch.nn.LayerNorm(8)
            self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = torch.nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            x = torch.nn.functional.gelu(self.inner(x), approximate="tanh")
            normed = self.norm(x)
            x = x + self.attention(normed, normed, normed, need_weights=False)[0]
            x = x * torch.sigmoid(x.mean(1, keepdim=True)) + torch.nn.functional.max_pool1d(x, 3, 1, 1)
            return self.head(x).log_softmax(-1)[:, :2]

    net = Net().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)  # attention far from uniform
    return net


def of_tensorflow() -> Any:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 8))
    normed = keras.layers.LayerNormalization()(x)
    y = keras.layers.Add()([x, keras.layers.MultiHeadAttention(2, 4)(normed, normed)])
    y = keras.layers.Multiply()([y, keras.layers.Dense(8, "sigmoid")(y)])
    y = keras.layers.Conv1D(5, 3, activation="gelu")(y)
    y = keras.layers.Flatten()(keras.layers.MaxPooling1D(2)(y))
    y = keras.layers.Reshape((2, 3))(keras.layers.Dense(6)(y))
    return keras.Model(x, keras.layers.Softmax()(y))


MAKERS = {"torch": of_torch, "tensorflow": of_tensorflow}


@pytest.fixture(scope="module", params=MAKERS)
def model(request: Any) -> Any:
    return MAKERS[request.param]()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_each_output_is_as_alone(model: Any, method: Any) -> None:
    more = {"seed": 7} if method.sampled else {}
    each, alone = (Explainer.compile(model, method, inputs=X, every_output=flag) for flag in (True, False))
    shape = each.output.sample_shape
    targets = [tuple(map(int, index)) for index in np.ndindex(*shape)]
    wanted = np.stack([alone(X, target=index, **more) for index in targets]).reshape(*shape, *X.shape)
    found = each(X, **more)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-5 * abs(wanted).max())
    traces = each.stats.traces
    part = each(X[1:4], batch_size=2, target="all", **more)
    if not method.sampled:
        np.testing.assert_allclose(part, wanted[:, :, 1:4], rtol=0, atol=3e-5 * abs(wanted).max())
    assert each(X[:0], **more).shape == (*shape, 0, *X.shape[1:])
    assert each.stats.traces == traces
    whole, one = each.explanation(X, **more), alone.explanation(X, target=targets[1], **more)
    np.testing.assert_allclose(whole.outputs, one.outputs, rtol=1e-5, atol=1e-6)
    if one.standard_error is not None:
        wide = abs(one.standard_error).max()
        np.testing.assert_allclose(whole.standard_error[targets[1]], one.standard_error, rtol=0, atol=1e-4 * wide)


def test_it_is_kept_in_files(tmp_path: Path) -> None:
    explain = Explainer.compile(of_torch(), methods.IntegratedGradients(3), inputs=X, every_output=True)
    explain.save(tmp_path / "each.explainer")
    loaded = Explainer.load(tmp_path / "each.explainer")
    np.testing.assert_array_equal(loaded(X), explain(X))


def test_what_it_does_not_do() -> None:
    explain = Explainer.compile(of_torch(), "gradient", inputs=X, every_output=True)
    with pytest.raises(TargetError, match="leave out target=1"):
        explain(X, target=1)
    for method in ("deeplift", "lrp", "guided_backprop", methods.IntegratedGradients(tolerance=0.1), "occlusion"):
        with pytest.raises(UnsupportedOperation, match="plain derivatives"):
            Explainer.compile(of_torch(), method, inputs=X, every_output=True)
