"""Find planted patches: ``python examples/patches.py [--quick]``.

Noisy images hold a cross, a ring or neither at a random place, and two bright squares that mean nothing. A
convolutional network learns to tell the three apart. Because it is known where each cross and ring is, ``evaluate`` can
rank explanations by metrics that know the place, and by metrics that only watch the output: they should agree. Writes
``out/patches.png`` and ``out/patches_evaluated.html``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from explainers import Explainer, Explanation, evaluate, methods, metrics, plots

Numpy = npt.NDArray[Any]
SIZE, PATCH, SQUARE = 28, 7, 5
LEAST = (
    0.9  # smallest share of pixels, for integrated gradients and occlusion, that rank a patch above its surroundings
)


def patches() -> tuple[Numpy, Numpy]:
    """A cross and a ring, 7 × 7 each."""
    place = np.arange(PATCH) - PATCH // 2
    across = np.abs(place)[:, None] - np.abs(place)[None]
    distance = np.hypot(place[:, None], place[None])
    return (across == 0).astype(np.float32), ((distance > 2) & (distance < 3.5)).astype(np.float32)


def planted(count: int, seed: int) -> tuple[Numpy, Numpy, Numpy]:
    """Images (N, 1, 28, 28), labels (N,): 0 neither, 1 cross, 2 ring; and masks of the patches, as large as images."""
    random = np.random.default_rng(seed)
    images = random.normal(0, 0.25, (count, 1, SIZE, SIZE)).astype(np.float32)
    masks = np.zeros(images.shape, bool)
    labels = np.arange(count) % 3
    for image, mask, label in zip(images[:, 0], masks[:, 0], labels, strict=True):
        for row, column in random.integers(SIZE - SQUARE + 1, size=(2, 2)):
            image[row : row + SQUARE, column : column + SQUARE] += 1
        if label:
            row, column = random.integers(SIZE - PATCH + 1, size=2)
            place = slice(row, row + PATCH), slice(column, column + PATCH)
            image[place] += patches()[label - 1]
            mask[place] = patches()[label - 1] > 0
    return images, labels, masks


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


def trained(images: Numpy, labels: Numpy, epochs: int) -> nn.Module:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    x, y = torch.tensor(images), torch.tensor(labels)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer explained images")
    quick = parser.parse_args().quick
    images, labels, _ = planted(3000, seed=0)
    model = trained(images, labels, epochs=8)
    held_out, labels, masks = planted(300, seed=1)
    with torch.no_grad():
        right = model(torch.tensor(held_out)).argmax(dim=1).numpy() == labels
    print(f"held-out accuracy {right.mean():.1%}")
    chosen = np.flatnonzero(right & (labels > 0))[: 20 if quick else 100]
    x, target, masks = held_out[chosen], labels[chosen], masks[chosen]
    values: list[methods.Method] = [
        methods.InputXGradient(), methods.SmoothGrad(25, 0.2), methods.IntegratedGradients(32), methods.DeepLift(),
        methods.Occlusion((1, 3, 3), (1, 1, 1)),
    ]  # fmt: skip
    explainers = {e.method.name: e for e in Explainer.compile(model, values, inputs=x[:1])}
    found = evaluate(
        explainers, x, target=target, masks=masks, controls=("random",),
        metrics=["localization_auc", "relevance_rank", "pointing_game", metrics.ABPC(28), "sensitivity_n"],
    )  # fmt: skip
    folder = Path("out")
    folder.mkdir(exist_ok=True)
    found.to_html(folder / "patches_evaluated.html")
    shown: dict[str, Explanation] = {name: e.explanation(x[:2], target=target[:2]) for name, e in explainers.items()}
    plots.grid(shown, samples=2).savefig(folder / "patches.png")
    print(found)
    for label in found.metrics:
        best = found.best(label)
        print(f"best by {label}: {max(best, key=best.__getitem__)}")
    print(f"picture: {folder / 'patches.png'}")
    for name in ("integrated_gradients", "occlusion"):
        if found.mean("localization_auc", name).mean < LEAST:
            raise SystemExit(f"{name} ranks fewer than {LEAST:.0%} of patch pixels above the others")


if __name__ == "__main__":
    main()
