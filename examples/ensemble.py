"""Explain digits by an ensemble of networks: ``python examples/ensemble.py [--quick]``.

Networks that differ in nothing but their seed give different attributions. All of them are explained at once. The
picture shows, for some held-out digits, the mean attribution, the spread between the networks, and the share of them
that agree with the sign of the mean: for digits that all get right, for digits of which they see different classes, and
for one that all mistake. Writes ``out/ensemble.png``.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from _models import CLASSES, Digits, load_digits
from torch import nn

from explainers import Explainer
from explainers.explainer.ensembles import EnsembleExplanation

Numpy = npt.NDArray[Any]
RED, GREY = "#c0392b", "0.4"
COLUMNS = ("Held-out digit", "Mean attribution", "Spread", "Agreement")
LEAST = 0.05  # how much closer to each other means of half of the networks should be than single networks


def trained(digits: Digits, seed: int, epochs: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    x, y = torch.tensor(digits.train_images), torch.tensor(digits.train_labels)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval()


def probabilities(logits: Numpy) -> Numpy:
    found = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(found / found.sum(axis=-1, keepdims=True))


def alike(one: Numpy, other: Numpy) -> float:
    """The mean correlation of two attributions (N, …) of the same samples."""
    pairs = zip(one.reshape(len(one), -1), other.reshape(len(other), -1), strict=True)
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]))


def above(values: Numpy, which: Numpy) -> float:
    """How often one of ``which`` has a larger value than one of the others: 0.5 by chance."""
    return float((values[which][:, None] > values[~which]).mean())


def chosen_digits(guesses: Numpy, labels: Numpy) -> Numpy:
    """Places of two digits that all networks get right, two they are divided about, and one that all mistake alike.

    guesses: (M, N).
    """
    same = (guesses == guesses[0]).all(axis=0)
    largest = np.array([np.bincount(column).max() for column in guesses.T])
    right, wrong = (np.flatnonzero(same & kind) for kind in (guesses[0] == labels, guesses[0] != labels))
    return np.concatenate([right[:2], np.argsort(largest, kind="stable")[:2], wrong[:1]])


def votes(guesses: Numpy) -> str:
    """How many of the networks say what: ``5 say 3, 3 say 9``."""
    counts = np.bincount(guesses)
    order = [number for number in np.argsort(-counts, kind="stable") if counts[number]]
    return f"all say {order[0]}" if len(order) == 1 else "\n".join(f"{counts[n]} say {n}" for n in order)


def draw(
    images: Numpy, labels: Numpy, guesses: Numpy, explained: Numpy, found: EnsembleExplanation, path: Path
) -> None:
    """One row for each digit. guesses: (M, N). explained: the class that attributions are of, (N,)."""
    from matplotlib.figure import Figure

    rows = len(images)
    figure: Any = Figure(figsize=(7.2, 1.0 + 1.55 * rows), dpi=110, layout="constrained")
    grid = figure.subplots(rows, len(COLUMNS))
    silent = found.mean == 0  # where the digit is white, as the baseline is
    for row in range(rows):
        limit = np.abs(found.mean[row]).max()
        agreement = np.ma.masked_array(found.agreement[row], silent[row])
        shown = (
            grid[row, 0].imshow(images[row], cmap="gray_r", vmin=0, vmax=1),
            grid[row, 1].imshow(found.mean[row], cmap="RdBu_r", vmin=-limit, vmax=limit),
            grid[row, 2].imshow(found.spread[row], cmap="Purples", vmin=0, vmax=limit / 2),
            grid[row, 3].imshow(agreement, cmap="Greens", vmin=0.5, vmax=1),
        )
        unsure = len(set(guesses[:, row])) > 1 or explained[row] != labels[row]
        grid[row, 0].set_ylabel(
            f"is {labels[row]}\n{votes(guesses[:, row])}", fontsize=10, rotation=0, ha="right", va="center",
            labelpad=8, color=RED if unsure else "black",
        )  # fmt: skip
        grid[row, 1].set_xlabel(f"for {explained[row]}", fontsize=9, color=GREY, labelpad=2)
        for axes in grid[row]:
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color="0.8", linewidth=0.6)
        grid[row, 3].set_facecolor("0.93")
    for axes, title in zip(grid[0], COLUMNS, strict=True):
        axes.set_title(title, fontsize=11)
    bars = (
        (1, [-limit, 0, limit], ["against", "0", "for"], "the class beneath"),
        (2, [0, limit / 2], ["0", "½"], "of the largest mean"),
        (3, [0.5, 1], ["half", "all"], "of the networks"),
    )
    for column, ticks, words, label in bars:
        bar = figure.colorbar(shown[column], ax=grid[:, column], location="bottom", shrink=0.8, aspect=14, pad=0.02)
        bar.set_ticks(ticks, labels=words)
        bar.set_label(label, fontsize=9, labelpad=1)
        bar.ax.tick_params(labelsize=9, length=0)
        bar.outline.set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer networks, trained for a shorter time")
    quick = parser.parse_args().quick
    digits = load_digits()
    x, y = digits.test_images, digits.test_labels
    models = [trained(digits, seed, epochs=10 if quick else 20) for seed in range(6 if quick else 8)]

    explain = Explainer.compile(models, "integrated_gradients", inputs=x[:1])
    outputs = explain.predict(x)
    guesses, mean = outputs.argmax(axis=-1), probabilities(outputs).mean(axis=0)
    explained = mean.argmax(axis=1)
    print(f"held-out accuracy of one network {(guesses == y).mean():.1%}, of the mean {(explained == y).mean():.1%}")

    # The logit against the mean of all logits: a softmax does not see a number that is added to all of them.
    target = np.eye(CLASSES, dtype=np.float32)[explained] - np.float32(1 / CLASSES)
    found = explain.explanation(x, target=target)
    half = len(models) // 2
    single = float(np.mean([alike(one, other) for one, other in combinations(found.attributions, 2)]))
    halves = alike(found.attributions[:half].mean(axis=0), found.attributions[half:].mean(axis=0))
    print(f"correlation of attributions: of two networks {single:.2f}, of two means of {half} {halves:.2f}")

    wrong = explained != y
    spread = found.spread.sum(axis=(1, 2)) / np.abs(found.mean).sum(axis=(1, 2))
    print(f"spread over mean of {wrong.sum()} mistaken digits {spread[wrong].mean():.2f}, ", end="")
    print(f"of the others {spread[~wrong].mean():.2f}")
    print("a mistaken digit ranks above another one by")
    print(f"  the spread of its attributions  {above(spread, wrong):4.0%}")
    print(f"  1 − its mean probability        {above(-mean.max(axis=1), wrong):4.0%}")

    places = chosen_digits(guesses, y)
    path = Path("out") / "ensemble.png"
    shown = explain.explanation(x[places], target=target[places])
    draw(x[places], y[places], guesses[:, places], explained[places], shown, path)
    print(f"picture: {path}")
    if halves - single < LEAST:
        raise SystemExit("the mean over networks depends on their seeds as much as one network does on its own")


if __name__ == "__main__":
    main()
