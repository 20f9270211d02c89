"""Explain models that can only be called: ``python examples/any_model.py``.

The data are 30 measurements of each of 569 breast tumours. The models are a random forest of scikit-learn, and a small
network that torch exports and ONNX Runtime runs. Prints the attributions of each method for one tumour, how far sampled
Shapley values are from those of a longer run, and how closely the explanations of the exported network and of the
original agree.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from explainers import Explainer, References, methods

Numpy = npt.NDArray[Any]
SHOWN = 5


def load() -> tuple[Numpy, Numpy, list[str]]:
    """Standardized measurements (569, 30), labels (1 is benign), and the names of the measurements."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.preprocessing import StandardScaler

    data = load_breast_cancer()
    return StandardScaler().fit_transform(data.data).astype(np.float32), data.target, list(data.feature_names)


def forest(x: Numpy, y: Numpy) -> Callable[[Numpy], Numpy]:
    """Probabilities (N, 2) by 100 trees."""
    from sklearn.ensemble import RandomForestClassifier

    result: Callable[[Numpy], Numpy] = RandomForestClassifier(random_state=0).fit(x, y).predict_proba
    return result


def network(x: Numpy, y: Numpy) -> Any:
    """A trained torch module, (N, 30) → (N, 2)."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(30, 16), torch.nn.GELU(), torch.nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    inputs, labels = torch.tensor(x), torch.tensor(y)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model.eval()


def exported(model: Any, folder: Path) -> Callable[[Numpy], Numpy]:
    """The same network, run by ONNX Runtime."""
    import onnxruntime
    import torch

    path = folder / "network.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(2, 30),), str(path), dynamo=True, verbose=False, input_names=["x"],
            dynamic_shapes=({0: torch.export.Dim("n")},),
        )  # fmt: skip
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(rows: Numpy) -> Numpy:
        result: Numpy = session.run(None, {"x": rows.astype(np.float32)})[0]
        return result

    return run


def report(title: str, scores: Numpy, names: list[str]) -> None:
    order = np.argsort(-abs(scores))[:SHOWN]
    largest = ", ".join(f"{names[i]} {scores[i]:+.3f}" for i in order)
    print(f"{title:<34} {largest}")


def main() -> None:
    x, y, names = load()
    tumour, background = x[:1], References(x[::20])
    model = forest(x, y)
    kinds = np.arange(30) % 10  # mean, error and worst of ten measurements

    print(f"random forest: benign with probability {model(tumour)[0, 1]:.2f}, on average {model(x)[:, 1].mean():.2f}")
    chosen_methods: list[methods.Method] = [
        methods.FeatureAblation(), methods.ShapleySampling(20), methods.KernelShap(), methods.Lime(),
        methods.ExactShapley(groups=kinds),
    ]  # fmt: skip
    for method in chosen_methods:
        explain = Explainer.compile(model, method, inputs=tumour, baseline=background)
        explanation = explain.explanation(tumour, target=1, seed=1)
        report(f"{method.name}, {explanation.evaluations[0]} evaluations", explanation.attributions[0], names)
        if explanation.completeness_gap is not None:
            assert explanation.largest_gap < 1e-6, "Shapley values add up to the change of the output"

    long = Explainer.compile(model, methods.ShapleySampling(200), inputs=tumour, baseline=background)
    short = Explainer.compile(model, methods.ShapleySampling(20), inputs=tumour, baseline=background)
    far, near = long.explanation(tumour, target=1), short.explanation(tumour, target=1, seed=1)
    off = abs(near.attributions - far.attributions) / np.hypot(near.standard_error, far.standard_error)
    print(
        f"20 permutations against 200, in standard errors: {np.median(off):.1f} in the median, {off.max():.1f} at most"
    )

    net = network(x, y)
    with tempfile.TemporaryDirectory() as folder:
        run = exported(net, Path(folder))
        method = methods.ShapleySampling(10)
        there = Explainer.compile(run, method, inputs=tumour)(x[:8], target=1, seed=3)
        here = Explainer.compile(net, method, inputs=tumour)(x[:8], target=1, seed=3)
    print(f"ONNX Runtime against torch: Shapley values differ by {abs(there - here).max():.1e}")
    report("shapley_sampling, ONNX Runtime", there[0], names)


if __name__ == "__main__":
    main()
