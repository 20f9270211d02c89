"""Find wrong labels, and the training digits behind a prediction: ``python examples/helpful.py [--quick]``.

One in twenty of the training digits has a wrong label. A small network learns them all, and the influence of each digit
on its own loss says where to look for the wrong ones. For some held-out digits, the picture shows the training digits
that lower their loss most, and those that raise it most. Writes ``out/helpful.png``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from _models import load_digits
from torch import nn

from explainers.influence import Influence, Top

Numpy = npt.NDArray[Any]
WRONG = 0.05  # share of the training labels
CHECKED = 0.1  # share of the training digits whose labels are checked
LEAST = 0.8  # smallest share of the wrong labels that should be among them
SHOWN = 5  # training digits of each kind
RED, GREY = "#c0392b", "0.4"


def with_wrong(labels: Numpy) -> tuple[Numpy, Numpy]:
    """The labels with some wrong ones, and the places of these."""
    random = np.random.default_rng(0)
    places = random.choice(len(labels), round(WRONG * len(labels)), replace=False)
    given = labels.copy()
    given[places] = (given[places] + random.integers(1, 10, len(places))) % 10
    return given, places


def trained(images: Numpy, labels: Numpy, epochs: int = 60) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    x, y = torch.tensor(images), torch.tensor(labels)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval()


def guessed(model: nn.Module, images: Numpy) -> Numpy:
    with torch.no_grad():
        return np.asarray(model(torch.tensor(images)).argmax(dim=1))


def chosen_tests(guesses: Numpy, labels: Numpy, count: int) -> Numpy:
    """Places of ``count`` digits that the network gets wrong, then of as many that it gets right, one of each class."""
    kinds = np.flatnonzero(guesses != labels), np.flatnonzero(guesses == labels)
    return np.concatenate([kind[np.unique(labels[kind], return_index=True)[1]][:count] for kind in kinds])


def show(axes: Any, image: Numpy, title: str, below: str, marked: bool = False) -> None:
    """One digit; marked in red."""
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9, color=RED if marked else "black", pad=3)
    axes.set_xlabel(below, fontsize=8, color=GREY, labelpad=3)
    for spine in axes.spines.values():
        spine.set(color=RED if marked else "0.8", linewidth=1.5 if marked else 0.6)


def draw(
    tests: tuple[Numpy, Numpy, Numpy], train: tuple[Numpy, Numpy, Numpy], helpful: Top, harmful: Top, path: Path
) -> None:
    """One row for each test. tests: images, labels, guesses. train: images, given labels, true labels."""
    from matplotlib.figure import Figure

    rows, count = len(tests[0]), len(train[0])
    figure: Any = Figure(figsize=(12, 0.9 + 1.3 * rows), dpi=110, layout="constrained")
    left, *parts = figure.subfigures(1, 3, width_ratios=[1.3, SHOWN, SHOWN], wspace=0.04)
    left.suptitle("Held-out digit\n", fontsize=11)
    for axes, image, label, guess in zip(left.subplots(rows, 1), *tests, strict=True):
        show(axes, image, f"{label}", "guessed right" if label == guess else f"guessed {guess}")
    titles = (
        "Most helpful training digits\nbelow: how much the loss rises without it",
        "Most harmful training digits\nin red, on both sides: the label is wrong",
    )
    for part, top, title in zip(parts, (helpful, harmful), titles, strict=True):
        part.suptitle(title, fontsize=11)
        for line, places, scores in zip(part.subplots(rows, SHOWN), top.indices, top.scores, strict=True):
            for axes, place, score in zip(line, places, scores, strict=True):
                image, given, true = (array[place] for array in train)
                heading = f"{given}" if given == true else f"“{given}”, is {true}"
                show(axes, image, heading, f"{score / count:+.3f}".replace("-", "−"), given != true)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer digits in the picture")
    quick = parser.parse_args().quick
    digits = load_digits()
    x, true = digits.train_images, digits.train_labels
    y, places = with_wrong(true)
    model = trained(x, y)
    guesses = guessed(model, digits.test_images)
    print(f"held-out accuracy {(guesses == digits.test_labels).mean():.1%}")

    fitted = Influence.compile(model, "cross_entropy", "ekfac", inputs=x[:1]).fit((x, y))
    suspects = np.argsort(-fitted.self_influence())[: round(CHECKED * len(x))]
    found = np.isin(places, suspects).mean()
    print(f"wrong labels among the {CHECKED:.0%} of largest self-influence: {found:.1%}")
    checked = y.copy()
    checked[suspects] = true[suspects]
    again = guessed(trained(x, checked), digits.test_images)
    print(f"held-out accuracy with these labels checked {(again == digits.test_labels).mean():.1%}")

    tests = chosen_tests(guesses, digits.test_labels, 2 if quick else 4)
    images, labels = digits.test_images[tests], digits.test_labels[tests]
    scores = fitted.lazy((images, labels))
    path = Path("out") / "helpful.png"
    draw((images, labels, guesses[tests]), (x, y, true), scores.top(SHOWN), scores.top(SHOWN, lowest=True), path)
    print(f"picture: {path}")
    if found < LEAST:
        raise SystemExit(f"fewer than {LEAST:.0%} of the wrong labels are found")


if __name__ == "__main__":
    main()
