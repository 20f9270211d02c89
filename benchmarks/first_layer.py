"""A first layer that is computed once for each sample: times with the reuse over times without, on one thread.

    python -m benchmarks.first_layer

Both explainers run in the same process, in interleaved rounds; ratios are medians of the rounds. The thresholds that
decide whether a first layer is reused are switched off with ``--always``, which shows where it does not pay.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from explainers import Explainer, methods
from explainers.program import first_layer

from .timing import machine, median, ratio, rounds


def patches(size: int, patch: int) -> np.ndarray:
    """The number of its square patch, for each pixel of an image (1, size, size)."""
    number = np.arange(size) // patch
    return (number[:, None] * -(-size // patch) + number)[None]


def mlp(size: int, wide: int) -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(size, wide), nn.ReLU(), nn.Linear(wide, 1024), nn.ReLU(), nn.Linear(1024, 10)]
    return nn.Sequential(*layers).eval()


def cnn(channels: int, kernel: int, stride: int) -> nn.Module:
    first = nn.Conv2d(channels, 32, kernel, stride)
    last = [nn.AdaptiveAvgPool2d(8), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 10)]
    return nn.Sequential(first, nn.ReLU(), *last).eval()


def cells() -> Iterator[tuple[str, nn.Module, tuple[int, ...], Any]]:
    """Title, model, the shape of a sample, and method."""
    image, ten = (1, 28, 28), patches(28, 4)
    yield "MLP 784-1024-1024-10, 49 groups", mlp(784, 1024), image, methods.ShapleySampling(10, groups=ten)
    yield "MLP 784-1024-1024-10, 49 groups", mlp(784, 1024), image, methods.KernelShap(512, groups=ten)
    yield "MLP 784-1024-1024-10, 49 groups", mlp(784, 1024), image, methods.FeatureAblation(groups=ten)
    yield "MLP 784-1024-1024-10, 196 groups", mlp(784, 1024), image, methods.ShapleySampling(2, groups=patches(28, 2))
    wide = (1, 64, 64)
    yield "MLP 4096-1024-1024-10, 64 groups", mlp(4096, 1024), wide, methods.ShapleySampling(4, groups=patches(64, 8))
    path = methods.IntegratedGradients(16)
    yield "MLP 784-1024-1024-10", mlp(784, 1024), image, path
    yield "MLP 64-256-1024-10", mlp(64, 256), (64,), path
    yield "CNN, first 32×3×7×7 / 2", cnn(3, 7, 2), (3, 64, 64), path
    yield "CNN, first 32×1×3×3", cnn(1, 3, 1), image, path


def always() -> None:
    """Reuse first layers wherever it is possible."""
    for name in ("LEAST_WORK", "LEAST_PATH_WORK", "LEAST_TERMS", "LEAST_STEPS", "SETUP"):
        setattr(first_layer, name, 0)
    first_layer.WORTHWHILE = float("inf")


def compiled(model: nn.Module, method: Any, x: torch.Tensor, *, reuse: bool) -> Explainer:
    first_layer.ENABLED = reuse
    try:
        return Explainer.compile(model, method, inputs=x[:2])
    finally:
        first_layer.ENABLED = True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_layer", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each cell")
    parser.add_argument("--always", action="store_true", help="reuse also where the rule decides against it")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.always:
        always()
    print(f"{machine()}; torch {torch.__version__}, 1 thread\n")
    print("| model | method | batch | reused | without ms | with ms | with ÷ without | difference |")
    print("|---|---|--:|---|--:|--:|---|--:|")
    for title, model, shape, method in cells():
        for batch in (1, 32):
            print(cell(title, model, shape, method, batch, args.seconds), flush=True)


def cell(title: str, model: nn.Module, shape: tuple[int, ...], method: Any, batch: int, seconds: float) -> str:
    x = torch.randn(batch, *shape)
    explainers = {name: compiled(model, method, x, reuse=name == "with") for name in ("with", "without")}
    with_reuse, without = (explain(x, target=3, seed=0) for explain in explainers.values())
    off = float((with_reuse - without).abs().max() / without.abs().max())
    same = explainers["with"].placeholders == explainers["without"].placeholders
    reused = "no" if same and not _on_path(explainers["with"]) else "yes"
    times = rounds(
        {name: lambda e=explain: e(x, target=3, seed=0) for name, explain in explainers.items()},
        seconds, least_rounds=5, warm=0.0,
    )  # fmt: skip
    middle, low, high = ratio(times["with"], times["without"])
    milliseconds = [f"{median(times[name]) * 1e3:.2f}" for name in ("without", "with")]
    measured = f"{middle:.2f} ({low:.2f}–{high:.2f})"
    return f"| {' | '.join([title, method.name, str(batch), reused, *milliseconds, measured, f'{off:.0e}'])} |"


def _on_path(explain: Explainer) -> bool:
    plan = explain._plan
    return plan is not None and isinstance(plan.packages.program, first_layer.PathBehindFirstLayer)


if __name__ == "__main__":
    main()
