"""Scores of metrics beside those of Quantus, for the same attributions of the same trained network.

    python -m benchmarks.agreement

A small CNN on scikit-learn's digits; attributions by input × gradient. Quantus needs an environment of its own. Where a
definition differs, the row says how, and the comparison is with the definition brought into line.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch import nn

from explainers import Explainer, evaluate, metrics

Numpy = npt.NDArray[Any]
COUNT = 60


def trained() -> tuple[nn.Module, Numpy, Numpy]:
    images, labels = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.tensor(x)), torch.tensor(labels)).backward()
        optimizer.step()
    return model.eval().requires_grad_(False), x[:COUNT], labels[:COUNT]


def main() -> None:
    warnings.simplefilter("ignore")
    quantus = import_module("quantus")
    model, x, labels = trained()
    rng = np.random.default_rng(0)
    x = x + rng.uniform(0, 1e-3, x.shape).astype(x.dtype)  # no two pixels, and so no two attributions, are equal
    explain = Explainer.compile(model, "input_x_gradient", inputs=x)
    phi = np.asarray(explain(x, target=labels))
    masks, scaled = x > 0.5, phi / np.abs(phi).max(axis=(1, 2, 3), keepdims=True)
    quiet = {"disable_warnings": True, "display_progressbar": False}
    plain = {"abs": False, "normalise": False, **quiet}
    size = {"abs": True, "normalise": False, **quiet}

    def theirs(metric: Any, attribution: Numpy = phi, **more: Any) -> Numpy:
        given = attribution.copy()  # some metrics change it
        found = metric(model=model, x_batch=x, y_batch=labels, a_batch=given, device="cpu", softmax=False, **more)
        return np.asarray(found, np.float64)

    def ours(metric: Any, attribution: Numpy = phi) -> Numpy:
        found = evaluate(
            {}, x, metrics=metric, target=labels, attributions={"a": attribution}, masks=masks, model=explain,
            controls=(),
        )  # fmt: skip
        return found.of(next(iter(found.scores)), "a")

    def deletion() -> tuple[Numpy, Numpy]:
        """Their curve leaves out s(x), and its area is a sum of 15 trapezoids of width 1."""
        curve = theirs(quantus.PixelFlipping(features_in_step=4, perturb_baseline=0.0, **plain))
        start = np.asarray(explain.predict(x))[np.arange(COUNT), labels][:, None]
        return ours(metrics.Deletion(16)), np.trapezoid(np.concatenate([start, curve], axis=1), dx=1 / 16)

    inside = {"s_batch": masks}
    pairs: dict[str, Callable[[], tuple[Numpy, Numpy]]] = {
        "Deletion": deletion,
        "FaithfulnessEstimate": lambda: (
            ours(metrics.FaithfulnessEstimate()),
            theirs(quantus.FaithfulnessEstimate(features_in_step=1, perturb_baseline=0.0, **plain)),
        ),
        "FaithfulnessCorrelation, other draws": lambda: (
            ours(metrics.FaithfulnessCorrelation(16, 400)),
            theirs(quantus.FaithfulnessCorrelation(subset_size=16, nr_runs=400, perturb_baseline=0.0,
                                                   return_aggregate=False, **plain)),
        ),
        "PointingGame": lambda: (
            ours(metrics.PointingGame()), theirs(quantus.PointingGame(**plain), **inside)
        ),
        "TopK": lambda: (ours(metrics.TopK(10)), theirs(quantus.TopKIntersection(k=10, **plain), **inside)),
        "RelevanceRank": lambda: (
            ours(metrics.RelevanceRank()), theirs(quantus.RelevanceRankAccuracy(**plain), **inside)
        ),
        "RelevanceMass": lambda: (
            ours(metrics.RelevanceMass(), np.abs(phi)), theirs(quantus.RelevanceMassAccuracy(**size), **inside)
        ),
        "LocalizationAUC": lambda: (ours(metrics.LocalizationAUC()), theirs(quantus.AUC(**plain), **inside)),
        "Sparseness": lambda: (ours(metrics.Sparseness()), theirs(quantus.Sparseness(**size))),
        "Entropy": lambda: (ours(metrics.Entropy()), theirs(quantus.Complexity(**size))),
        "EffectiveComplexity": lambda: (
            ours(metrics.EffectiveComplexity(0.01)), theirs(quantus.EffectiveComplexity(eps=0.01, **size), scaled),
        ),
        "MaxSensitivity, other draws": lambda: (
            _sensitivity(model, x, labels),
            _their_sensitivity(quantus, model, x, labels),
        ),
    }  # fmt: skip
    print("| metric | mean, ours | mean, Quantus | largest difference | correlation |\n|---|--:|--:|--:|--:|")
    for name, both in pairs.items():
        a, b = both()
        known = np.isfinite(a) & np.isfinite(b)
        spread = a[known].std() * b[known].std()
        alike = np.corrcoef(a[known], b[known])[0, 1] if spread > 0 else float("nan")
        largest = np.abs(a - b)[known].max()
        print(f"| {name} | {a[known].mean():.4g} | {b[known].mean():.4g} | {largest:.1e} | {alike:.4f} |", flush=True)


def _gradients(model: Any, inputs: Any, targets: Any, **_: Any) -> Numpy:
    given = torch.tensor(np.asarray(inputs), dtype=torch.float32).requires_grad_()
    model(given).gather(1, torch.tensor(np.asarray(targets))[:, None]).sum().backward()
    found: Numpy = (given.grad * given.detach()).numpy()  # type: ignore[operator]
    return found


def _sensitivity(model: nn.Module, x: Numpy, labels: Numpy) -> Numpy:
    explain = Explainer.compile(model, "input_x_gradient", inputs=x)
    found = evaluate(explain, x, metrics=metrics.Sensitivity(0.1, 50), target=labels, controls=())
    return found.of(next(iter(found.scores)), "input_x_gradient")


def _their_sensitivity(quantus: Any, model: nn.Module, x: Numpy, labels: Numpy) -> Numpy:
    metric = quantus.MaxSensitivity(
        nr_samples=50, lower_bound=0.1, abs=False, normalise=False, disable_warnings=True, display_progressbar=False
    )
    found = metric(
        model=model, x_batch=x, y_batch=labels, a_batch=_gradients(model, x, labels), device="cpu",
        explain_func=_gradients,
    )  # fmt: skip
    return np.asarray(found, np.float64)


if __name__ == "__main__":
    main()
