"""Explain handwritten digits on three backends: ``python examples/digits.py [--quick]``.

Trains a small residual network on scikit-learn's 1,797 digits in torch and in Keras, and a forest
of trees. For each backend and method: compile once, explain the held-out digits, then answer single
requests with random targets and batch sizes, which must not trace again. Prints a table and writes
``out/digits.png``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _gallery import Panel, draw
from _models import CLASSES, Digits, load_digits, train_forest, train_keras, train_torch

from explainers import Explainer, References, TensorSpec, methods

SETTINGS = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "OMP_NUM_THREADS": "1",  # with images of 64 pixels, several threads would mostly wait for each other
    "TF_NUM_INTRAOP_THREADS": "1",
}
for name, value in SETTINGS.items():  # before any framework is imported
    os.environ.setdefault(name, value)

Numpy = npt.NDArray[Any]
LEAST_ACCURACY = 0.97
LARGEST_REQUEST = 16


@dataclass(frozen=True)
class Subject:
    """A model to train, the shape of its images, and whether only forward-only methods apply."""

    name: str
    train: Callable[[Digits], tuple[Any, float]]
    shaped: Callable[[Numpy], Numpy]
    forward_only: bool = False


SUBJECTS = (
    Subject("torch", train_torch, lambda images: images[:, None]),
    Subject("tensorflow", train_keras, lambda images: images[..., None]),
    Subject("numpy", train_forest, lambda images: images, forward_only=True),
)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    backend: str
    method: str
    compile_seconds: float
    first_seconds: float
    request_seconds: float
    rows_per_second: float
    traces: tuple[int, int]  # after the first call, after the last request
    gap: float

    def cells(self) -> list[str]:
        before, after = self.traces
        return [
            self.backend,
            self.method,
            f"{self.compile_seconds:.2f} s",
            f"{self.first_seconds * 1e3:.1f} ms",
            f"{self.request_seconds * 1e3:.2f} ms",
            f"{self.rows_per_second:,.0f}",
            f"{before} → {after}",
            "–" if np.isnan(self.gap) else f"{self.gap:.1e}",
        ]


HEADINGS = ["backend", "method", "compile", "first call", "request", "rows/s", "traces", "gap"]
NOTES = """\
request: median time of one call with 1-16 digits and a random target for each.
rows/s:  evaluations of the model (and its derivative) per second while the held-out digits are explained.
traces:  compiled programs after the first call → after the last request.
gap:     largest |sum of attributions - (f(x) - f(baseline))| relative to the change; – where not defined."""


def chosen_methods(subject: Subject, quick: bool) -> list[methods.Method]:
    """The methods that are run on ``subject``."""
    steps, draws = (16, 4) if quick else (50, 16)
    squares = np.arange(8)[:, None] // 2 * 4 + np.arange(8) // 2  # sixteen features of 2 × 2 pixels
    groups = subject.shaped(squares[None])[0]
    removal: list[methods.Method] = [
        methods.FeatureAblation(), methods.Occlusion(window=3), methods.ShapleySampling(draws, groups=groups),
        methods.KernelShap(16 * draws, groups=groups), methods.Lime(16 * draws, groups=groups),
        methods.Rise(16 * draws, grid=4),
    ]  # fmt: skip
    if subject.forward_only:
        return removal
    return [
        methods.Gradient(), methods.Saliency(), methods.InputXGradient(),
        methods.IntegratedGradients(steps), methods.SmoothGrad(steps), methods.GradientShap(steps),
        methods.GuidedBackprop(), methods.Deconvnet(), methods.DeepLift(), methods.DeepLiftShap(),
        methods.LRP(), methods.ELRP(), *removal,
    ]  # fmt: skip


def measure(
    subject: Subject, model: Any, method: methods.Method, images: Numpy, references: Numpy, requests: int
) -> tuple[Row, Explainer]:
    """Compile an explainer, explain ``images``, and answer ``requests`` single requests."""
    baseline: Any = References(references) if method.baseline == "references" else 0.0
    start = time.perf_counter()
    explain = Explainer.compile(model, method, inputs=TensorSpec((None, *images.shape[1:])), baseline=baseline)
    compile_end = time.perf_counter()
    explain(images[:1], target=0)
    first_end = time.perf_counter()
    traces = explain.stats.traces
    rows = explain.stats.rows
    all_start = time.perf_counter()
    explanation = explain.explanation(images, target="max")
    seconds = time.perf_counter() - all_start
    rows = explain.stats.rows - rows
    median = answer(explain, images, requests)
    row = Row(
        subject.name, method.name, compile_end - start, first_end - compile_end, median, rows / seconds,
        (traces, explain.stats.traces), explanation.largest_gap,
    )  # fmt: skip
    return row, explain


def answer(explain: Explainer, images: Numpy, requests: int) -> float:
    """Median seconds of single requests, each of a random size, with a random target for each digit."""
    random = np.random.default_rng(0)
    seconds = []
    for _ in range(requests):
        positions = random.integers(len(images), size=random.integers(1, LARGEST_REQUEST + 1))
        targets = random.integers(CLASSES, size=len(positions))
        batch = images[positions]
        start = time.perf_counter()
        scores = explain(batch, target=targets)
        seconds.append(time.perf_counter() - start)
        assert scores.shape == batch.shape
    return statistics.median(seconds)


def print_line(cells: list[str]) -> None:
    widths = (10, 20, 8, 10, 10, 9, 7, 8)
    aligned = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]
    print("  ".join(aligned), flush=True)


def one_of_each(digits: Digits) -> Numpy:
    """Positions of the first held-out digit of each class."""
    return np.array([int(np.flatnonzero(digits.test_labels == label)[0]) for label in range(CLASSES)])


def run(subject: Subject, model: Any, digits: Digits, quick: bool) -> tuple[list[Row], list[Panel]]:
    """All methods on one model: the table's rows, and for the gallery one digit of each class."""
    images = subject.shaped(digits.test_images)[: 100 if quick else None]
    references = subject.shaped(digits.train_images)[:50]
    gallery_images = subject.shaped(digits.test_images)[one_of_each(digits)]
    rows, panels = [], []
    for method in chosen_methods(subject, quick):
        row, explain = measure(subject, model, method, images, references, 40 if quick else 200)
        print_line(row.cells())
        rows.append(row)
        scores = explain(gallery_images, target=np.arange(CLASSES))
        shown = scores.reshape(-1, 8, 8)
        if method.only_differences:
            shown = shown - shown.mean(axis=(1, 2), keepdims=True)
        panels.append(Panel(subject.name, method.name, shown))
    return rows, panels


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer digits, steps and requests")
    quick = parser.parse_args().quick
    digits = load_digits()
    trained = []
    for subject in SUBJECTS:
        start = time.perf_counter()
        model, accuracy = subject.train(digits)
        print(f"{subject.name}: held-out accuracy {accuracy:.1%}, trained in {time.perf_counter() - start:.1f} s")
        if accuracy < LEAST_ACCURACY:
            raise SystemExit(f"{subject.name}: accuracy {accuracy:.1%} is below {LEAST_ACCURACY:.0%}")
        trained.append((subject, model))
    print()
    print_line(HEADINGS)
    rows, panels = [], []
    for subject, model in trained:
        more_rows, more_panels = run(subject, model, digits, quick)
        rows += more_rows
        panels += more_panels
    print(f"\n{NOTES}\n")
    retraced = [f"{row.backend} {row.method}" for row in rows if row.traces[0] != row.traces[1]]
    if retraced:
        raise SystemExit(f"traced again: {', '.join(retraced)}")
    path = draw(digits.test_images[one_of_each(digits)], panels, Path("out") / "digits.png")
    print(f"gallery: {path}")


if __name__ == "__main__":
    main()
