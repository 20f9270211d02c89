"""The known answers of SEMANTICS.md for the methods of the gradient family, and its DeepExplain names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from explainers import Explainer, methods

X = np.array([[3.0, 1.0]], np.float64)


def in_torch() -> Any:
    """ReLU(ReLU(x₁−1) − ReLU(x₂))."""
    import torch

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(torch.relu(x[:, 0] - 1) - torch.relu(x[:, 1]))

    return Net()


def in_tensorflow() -> Any:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float64)])
    def net(x: Any) -> Any:
        return tf.nn.relu(tf.nn.relu(x[:, 0] - 1) - tf.nn.relu(x[:, 1]))

    return net


def in_numpy() -> Any:
    return lambda x: np.maximum(np.maximum(x[:, 0] - 1, 0) - np.maximum(x[:, 1], 0), 0)


NETS = {"torch": in_torch, "tensorflow": in_tensorflow, "numpy": in_numpy}
ANSWERS: list[tuple[Any, list[float], float]] = [
    ("saliency", [1, 1], 0),
    ("gradient", [1, -1], 0),
    ("input_x_gradient", [3, -1], 0),
    ("grad*input", [3, -1], 0),
    (methods.IntegratedGradients(steps=2000, quadrature="midpoint"), [1.5, -0.5], 1e-3),
    ("intgrad", [1.5, -0.5], 0.04),
    ("zero", [0, 0], 0),
    ("elrp", [3, -1], 1e-3),
    (methods.ELRP(0), [3, -1], 0),
    ("deeplift", [2, -1], 0),
    ("feature_ablation", [1, -1], 0),  # occlusion by single elements
    (methods.FeatureAblation(groups=np.array([0, 0])), [1, 1], 0),  # both at once: f goes from 1 to 0
]


@pytest.mark.parametrize("backend", NETS)
@pytest.mark.parametrize(("method", "answer", "tolerance"), ANSWERS, ids=[str(a[0])[:24] for a in ANSWERS])
def test_known_answer(backend: str, method: Any, answer: list[float], tolerance: float) -> None:
    if backend == "numpy" and methods.resolve(method).rules:
        with pytest.raises(RuntimeError, match="needs the derivative"):
            Explainer.compile(in_numpy(), method)
        return
    got = Explainer.compile(NETS[backend](), method, backend=backend)(X)
    np.testing.assert_allclose(got, [answer], atol=tolerance + 1e-12)


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_integrated_gradients_on_the_right_is_the_definition(backend: str) -> None:
    """α = k/100, k = 1 … 100, as DeepExplain: the derivative is (1, −1) where 3α − 1 > α, so from α > ½ on."""
    got = Explainer.compile(NETS[backend](), "intgrad", backend=backend)(X)
    np.testing.assert_allclose(got, [[3 * 0.5, -0.5]], atol=1e-12)


@pytest.mark.parametrize("backend", NETS)
def test_linear_models_have_one_explanation(backend: str) -> None:
    """Integrated gradients = DeepLIFT = ablation = w·(x−b) on any linear function, matched baseline."""
    weights = np.array([2.0, -3.0])
    x, b = np.array([[1.0, 2.0], [-1.0, 0.5]]), np.array([0.3, -0.7])
    model = linear(backend, weights)
    names = ["feature_ablation"] if backend == "numpy" else ["feature_ablation", "integrated_gradients", "deeplift"]
    for name in names:
        got = Explainer.compile(model, name, backend=backend)(x, baseline=b)
        np.testing.assert_allclose(got, weights * (x - b), atol=1e-12)


def linear(backend: str, weights: np.ndarray) -> Any:
    if backend == "numpy":
        return lambda x: x @ weights
    if backend == "torch":
        import torch

        model = torch.nn.Linear(2, 1).double()
        model.weight.data[0] = torch.tensor(weights)
        return model
    import tensorflow as tf

    return tf.function(lambda x: tf.linalg.matvec(x, weights), input_signature=[tf.TensorSpec((None, 2), tf.float64)])
