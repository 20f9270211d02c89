"""Incremental inference: the whole product over the one that computes only what a row can change.

    python -m benchmarks.incremental [lenet basset dilated resnet50 vgg16 keras_lenet keras_basset keras_dilated]

Both explainers run in the same process, in interleaved rounds; ratios are medians of the rounds. Where the whole
product of one sample takes minutes (ResNet-50, VGG-16), it is replaced by the model's own forward pass on 32 rows,
times the number of rows over 32, which is less than the explainer needs for whole rows. Captum's Occlusion evaluates
the same rows, 32 of each sample at a time; for the two large models it is timed once. It has no counterpart of ism, and
explains torch models only. Without names, the cases on torch run; those on Keras want a process of their own, because
the threads of two frameworks compete.
"""

from __future__ import annotations

import argparse
import importlib
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from captum.attr import Occlusion
from torch import Tensor, nn

from explainers import Explainer, methods

from .models import Dilated, LeNet, resnet50
from .timing import machine, median, ratio, rounds

ROWS = 32  # of the bare model's forward pass


class Case(NamedTuple):
    title: str
    model: Callable[[], Any]
    method: Any
    sample: Callable[[int], Any]
    batches: tuple[int, ...] = (1,)
    whole: bool = True  # else the bare model


def vgg16() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for repeats, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(repeats):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7), nn.Flatten(), *head)


def basset() -> nn.Module:
    """Three convolutions with pools and three dense layers over 600 letters, as in Kelley et al. 2016."""
    layers: list[nn.Module] = []
    for channels, width, kernel, pool in ((4, 300, 19, 3), (300, 200, 11, 4), (200, 200, 7, 4)):
        convolution = nn.Conv1d(channels, width, kernel, padding=kernel // 2)
        layers += [convolution, nn.BatchNorm1d(width), nn.ReLU(), nn.MaxPool1d(pool)]
    head = [nn.Linear(2400, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 164)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


def letters(length: int) -> Callable[[int], Tensor]:
    return lambda n: nn.functional.one_hot(torch.randint(0, 4, (n, length)), 4).transpose(1, 2).float().contiguous()


def image(n: int) -> Tensor:
    return torch.randn(n, 3, 224, 224)


def on_keras() -> Any:
    """The module of the models on Keras; TensorFlow is imported with it."""
    return importlib.import_module(".incremental_keras", __package__)


TILES = methods.Occlusion((3, 16, 16), (3, 8, 8))
CASES = {
    "lenet": Case(
        "LeNet 28×28, occlusion 4/2", LeNet, methods.Occlusion((1, 4, 4), (1, 2, 2)),
        lambda n: torch.randn(n, 1, 28, 28), (1, 16),
    ),
    "basset": Case("Basset-like 4×600, ism", basset, "ism", letters(600)),
    "dilated": Case("dilated CNN 4×2114, ism", Dilated, "ism", letters(2114)),
    "resnet50": Case("ResNet-50 224², occlusion 16/8", resnet50, TILES, image, whole=False),
    "vgg16": Case("VGG-16 224², occlusion 16/8", vgg16, TILES, image, whole=False),
    "keras_lenet": Case(
        "Keras LeNet 28×28, occlusion 4/2", lambda: on_keras().lenet(), methods.Occlusion((4, 4, 1), (2, 2, 1)),
        lambda n: on_keras().images(n), (1, 16),
    ),
    "keras_basset": Case(
        "Keras Basset-like 4×600, ism", lambda: on_keras().basset(), "ism", lambda n: on_keras().letters(n, 600)
    ),
    "keras_dilated": Case(
        "Keras dilated CNN 4×2114, ism", lambda: on_keras().dilated(), "ism", lambda n: on_keras().letters(n, 2114)
    ),
}  # fmt: skip


def measured(case: Case, batch: int, seconds: float) -> str:
    torch.manual_seed(0)
    model, x = case.model(), case.sample(batch)
    if isinstance(model, nn.Module):
        model.eval().requires_grad_(False)
    windows = Explainer.compile(model, case.method, inputs=x)
    rows = windows.stats
    before = rows.rows
    found = windows(x, target=0)
    count = rows.rows - before
    candidates: dict[str, Callable[[], Any]] = {"windows": lambda: windows(x, target=0)}
    share, off = 1.0, "–"
    if case.whole:
        dense = Explainer.compile(model, case.method, inputs=x, incremental=False)
        wanted = np.asarray(dense(x, target=0))
        output = np.abs(np.asarray(model(x))[:, 0]).max()
        off = f"{np.abs(np.asarray(found) - wanted).max() / max(output, np.abs(wanted).max()):.0e}"
        candidates["whole"] = lambda: dense(x, target=0)
    else:
        repeated = x.repeat(ROWS, 1, 1, 1)
        share = count / ROWS
        candidates["whole"] = lambda: model(repeated)
    peer = captum(model, case, x)
    if peer is not None and case.whole:
        candidates["captum"] = peer
    times = rounds(candidates, seconds, least_rounds=3, warm=0.0)
    if peer is not None and not case.whole:
        start = time.perf_counter()
        peer()
        times["captum"] = [time.perf_counter() - start]
    middle, low, high = ratio([share * t for t in times["whole"]], times["windows"])
    seconds_each = [f"{median(times['whole']) * share:.3g}", f"{median(times['windows']):.3g}"]
    factor = f"{middle:.2f} ({low:.2f}–{high:.2f})"
    seconds_each.append(f"{median(times['captum']):.3g}" if peer is not None else "–")
    return f"| {' | '.join([case.title, str(batch), str(count), *seconds_each, factor, off])} |"


def captum(model: Any, case: Case, x: Any) -> Callable[[], Any] | None:
    """Captum's Occlusion on the same rows."""
    if not isinstance(case.method, methods.Occlusion) or not isinstance(model, nn.Module):
        return None
    window, stride = case.method.window, case.method.stride
    occlusion = Occlusion(model)
    return lambda: occlusion.attribute(
        x, sliding_window_shapes=window, strides=stride, target=0, perturbations_per_eval=ROWS
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.incremental", description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; default those on torch")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each case, at least 3 rounds")
    args = parser.parse_args()
    unknown = sorted(set(args.cases) - CASES.keys())
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(CASES)}")
    warnings.simplefilter("ignore")
    names = args.cases or [name for name in CASES if not name.startswith("keras")]
    keras = any(name.startswith("keras") for name in names)
    versions = f", {on_keras().versions()}" if keras else ""
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads{versions}\n")
    print("| model, method | samples | rows | whole s | windows s | Captum s | whole ÷ windows | difference |")
    print("|---|--:|--:|--:|--:|--:|---|--:|")
    for name in names:
        case = CASES[name]
        for batch in case.batches:
            print(measured(case, batch, args.seconds), flush=True)


if __name__ == "__main__":
    main()
