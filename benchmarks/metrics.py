"""What metrics cost: in forward passes of the same rows, together and alone, and beside captum.metrics and Quantus.

    python -m benchmarks.metrics [--seconds S]

LeNet, float32. Times are medians of interleaved rounds. Quantus is measured where it can be imported; it needs an
environment of its own.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from captum.attr import Saliency
from captum.metrics import infidelity, sensitivity_max

from explainers import Explainer, evaluate, metrics

from .models import LeNet
from .timing import machine, median, ratio, rounds

STEPS = 56
DRAWS = 100
OF_FIVE = [
    metrics.Deletion(STEPS), metrics.Insertion(STEPS), metrics.ABPC(STEPS),
    metrics.FaithfulnessCorrelation(draws=DRAWS), metrics.Infidelity(draws=DRAWS),
]  # fmt: skip


def forward(model: torch.nn.Module, count: int, size: int) -> Callable[[], object]:
    """The bare model on ``count`` rows, ``size`` at a time."""
    rows = torch.randn(size, 1, 28, 28)

    def run() -> None:
        with torch.no_grad():
            for start in range(0, count, size):
                model(rows[: min(size, count - start)])

    return run


def evaluated(explain: Explainer, x: torch.Tensor, chosen: Any, methods: int = 1) -> Callable[[], metrics.Evaluation]:
    rng = np.random.default_rng(0)
    given = {f"method {i}": rng.standard_normal(tuple(x.shape)).astype(np.float32) for i in range(methods)}
    return lambda: evaluate({}, x, metrics=chosen, target=0, attributions=given, model=explain, controls=())


def shown(title: str, rows: int | str, above: list[float], below: list[float]) -> None:
    middle, low, high = ratio(above, below)
    print(f"| {title} | {rows} | {1e3 * median(above):.4g} | {1e3 * median(below):.4g} | "
          f"{middle:.2f} ({low:.2f}–{high:.2f}) |", flush=True)  # fmt: skip


def in_forward_passes(model: torch.nn.Module, explain: Explainer, seconds: float) -> None:
    print("\n| metric, samples | rows | metric ms | forward ms | metric ÷ forward |\n|---|--:|--:|--:|---|")
    for count in (32, 256):
        x = torch.randn(count, 1, 28, 28)
        for metric in (metrics.Deletion(STEPS), metrics.FaithfulnessCorrelation(draws=DRAWS),
                       metrics.Infidelity(noise=0.1, draws=DRAWS)):  # fmt: skip
            run = evaluated(explain, x, metric)
            rows = run().rows
            times = rounds({"metric": run, "forward": forward(model, rows, explain.stats.batch_size)}, seconds)
            shown(f"{metric.name}, {count}", rows, times["metric"], times["forward"])


def together(explain: Explainer, seconds: float) -> None:
    print("\n| five metrics, five methods | rows | together ms | alone ms | together ÷ alone |\n|---|--:|--:|--:|---|")
    for count in (32, 256):
        x = torch.randn(count, 1, 28, 28)
        run = evaluated(explain, x, OF_FIVE, 5)
        alone = [evaluated(explain, x, metric) for metric in OF_FIVE]

        def one_by_one(runs: Any = alone) -> None:
            for _ in range(5):
                for each in runs:
                    each()

        times = rounds({"together": run, "alone": one_by_one}, seconds, least_rounds=3)
        shown(f"{count} samples", run().rows, times["together"], times["alone"])


def one_sample(explain: Explainer, seconds: float) -> None:
    print("\n| perturbations | rows | one sample ms | 64 samples ms | one ÷ 64 |\n|---|--:|--:|--:|---|")
    one = evaluated(explain, torch.randn(1, 1, 28, 28), metrics.Infidelity(draws=5000))
    many = evaluated(explain, torch.randn(64, 1, 28, 28), metrics.Infidelity(draws=78))
    times = rounds({"one": one, "many": many}, seconds)
    shown("Infidelity", one().rows, times["one"], times["many"])


def peers(model: torch.nn.Module, seconds: float) -> None:
    print("\n| beside, 32 samples | rows | ours ms | theirs ms | ours ÷ theirs |\n|---|--:|--:|--:|---|")
    x = torch.randn(32, 1, 28, 28)
    explain = Explainer.compile(model, "saliency", inputs=x)
    phi = explain(x, target=0)

    def perturb(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = 0.1 * torch.randn_like(inputs)
        return noise, inputs - noise

    captum = Saliency(model)
    pairs = {
        f"Infidelity, {DRAWS} draws, captum": (
            metrics.Infidelity(noise=0.1, draws=DRAWS),
            lambda: infidelity(model, perturb, x, phi, target=0, n_perturb_samples=DRAWS, max_examples_per_batch=512),
        ),
        "Sensitivity, 10 draws, captum": (
            metrics.Sensitivity(draws=10),
            lambda: sensitivity_max(captum.attribute, x, target=0, n_perturb_samples=10, max_examples_per_batch=320),
        ),
    }
    if find_spec("quantus") is not None:
        pairs |= _quantus(model, x, phi)
    for title, (metric, theirs) in pairs.items():

        def ours(metric: Any = metric) -> metrics.Evaluation:
            return evaluate(explain, x, metrics=metric, target=0, controls=())

        times = rounds({"ours": ours, "theirs": theirs}, seconds, least_rounds=3)
        shown(title, ours().rows, times["ours"], times["theirs"])


def _quantus(model: torch.nn.Module, x: torch.Tensor, phi: torch.Tensor) -> dict[str, Any]:
    quantus = import_module("quantus")
    images, labels = x.numpy(), np.zeros(len(x), int)
    common = {"disable_warnings": True, "display_progressbar": False}

    def explained(model: Any, inputs: Any, targets: Any, **_: Any) -> Any:
        given = torch.tensor(np.asarray(inputs), dtype=torch.float32).requires_grad_()
        model(given).gather(1, torch.tensor(targets)[:, None]).sum().backward()
        return given.grad.abs().numpy()  # type: ignore[union-attr]

    def scored(metric: Any) -> Callable[[], Any]:
        return lambda: metric(
            model=model, x_batch=images, y_batch=labels, a_batch=phi.numpy(), device="cpu", explain_func=explained
        )

    side = 784 // STEPS
    return {
        f"Deletion, {STEPS} steps, Quantus": (
            metrics.Deletion(STEPS),
            scored(quantus.PixelFlipping(features_in_step=side, perturb_baseline="black", **common)),
        ),
        f"FaithfulnessCorrelation, {DRAWS} draws, Quantus": (
            metrics.FaithfulnessCorrelation(draws=DRAWS),
            scored(quantus.FaithfulnessCorrelation(nr_runs=DRAWS, subset_size=157, **common)),
        ),
        "MaxSensitivity, 10 draws, Quantus": (
            metrics.Sensitivity(draws=10),
            scored(quantus.MaxSensitivity(nr_samples=10, lower_bound=0.02, **common)),
        ),
        "ROAD, 9 shares, Quantus": (
            metrics.ROAD(),
            scored(quantus.ROAD(percentages=list(range(10, 100, 10)), noise=0.01, **common)),
        ),
        "ModelRandomization, Quantus": (
            metrics.ModelRandomization(),
            scored(quantus.MPRT(layer_order="top_down", **common)),
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each row")
    seconds = parser.parse_args().seconds
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = LeNet().eval().requires_grad_(False)
    explain = Explainer.compile(model, "gradient", inputs=torch.zeros(1, 1, 28, 28))
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    in_forward_passes(model, explain, seconds)
    together(explain, seconds)
    one_sample(explain, seconds)
    peers(model, seconds)


if __name__ == "__main__":
    main()
