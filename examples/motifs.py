"""Find DNA motifs: ``python examples/motifs.py [--quick]``.

Half of the random DNA sequences contain the motif GATAAGG at a random position. A dilated convolutional network learns
to detect it. Its steep units saturate at a motif, so the gradient there is small, and methods that compare with a
baseline find what the gradient misses. Because the true positions are known, the table can show how many of the seven
positions with the largest attribution lie inside the motif. Then ``evaluate`` ranks the methods by metrics that know
the positions and by metrics that only watch the output, which should agree. Writes ``out/motifs.png`` (logos),
``out/motifs.html`` and ``out/motifs_evaluated.html``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from explainers import Explainer, Explanation, evaluate, methods, plots

Numpy = npt.NDArray[Any]
LENGTH, LETTERS = 100, "ACGT"
MOTIF = "GATAAGG"
STEEP = 8.0
LEAST = 0.9  # smallest fraction of top positions inside the motif, for DeepLIFT and Shapley sampling


def sequences(count: int, seed: int) -> tuple[Numpy, Numpy, Numpy]:
    """One-hot sequences (N, 4, 100), labels (N,), and the start of each motif (−1 without one)."""
    random = np.random.default_rng(seed)
    letters = random.integers(4, size=(count, LENGTH))
    labels = np.arange(count) % 2
    starts = np.where(labels == 1, random.integers(LENGTH - len(MOTIF) + 1, size=count), -1)
    for row, start in zip(letters, starts, strict=True):
        if start >= 0:
            row[start : start + len(MOTIF)] = [LETTERS.index(letter) for letter in MOTIF]
    return np.eye(4, dtype=np.float32)[letters].transpose(0, 2, 1).copy(), labels, starts


class Dilated(torch.nn.Module):
    """Convolutions with dilations 1, 2 and 4, and the maximum of each filter over all positions."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.scan = torch.nn.Conv1d(4, width, 7, padding=3)
        self.wider = torch.nn.ModuleList(
            torch.nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation) for dilation in (1, 2, 4)
        )
        self.head = torch.nn.Linear(width, 1)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(STEEP * self.scan(sequence))
        for layer in self.wider:
            x = x + torch.tanh(STEEP * layer(x))
        return torch.sigmoid(self.head(x.amax(dim=2)))


def train(x: Numpy, y: Numpy, epochs: int) -> torch.nn.Module:
    torch.manual_seed(0)
    network = Dilated()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    inputs, labels = torch.tensor(x), torch.tensor(y, dtype=torch.float32)[:, None]
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy(network(inputs[batch]), labels[batch]).backward()
            optimizer.step()
    return network.eval()


def inside(explanation: Explanation, starts: Numpy) -> float:
    """The fraction of the top seven positions by attribution × input that lie inside the motif."""
    scores = (explanation.parts()["sequence"] * explanation.inputs["sequence"]).sum(axis=1)
    top = np.argsort(-scores, axis=1)[:, : len(MOTIF)]
    return float(((top >= starts[:, None]) & (top < starts[:, None] + len(MOTIF))).mean())


def ranked(explanations: dict[str, Explanation], model: Explainer, x: Numpy, starts: Numpy, background: Numpy) -> str:
    """The methods scored with and without knowledge of the motif's position; the best one by each metric."""
    place = np.arange(LENGTH)
    masks = ((place >= starts[:, None]) & (place < starts[:, None] + len(MOTIF)))[:, None]
    found = evaluate(
        {}, x, target=0, baseline=background, groups=place[None], masks=masks, model=model, controls=("random",),
        attributions={name: e.parts()["sequence"] * x for name, e in explanations.items()},
        metrics=["relevance_rank", "pointing_game", "deletion", "sensitivity_n"],
    )  # fmt: skip
    found.to_html(Path("out") / "motifs_evaluated.html")
    best = {label: max(shares, key=shares.get) for label in found.metrics if (shares := found.best(label))}  # type: ignore[arg-type]
    return f"{found}\n" + "\n".join(f"best by {label}: {name}" for label, name in best.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer explained sequences and permutations")
    quick = parser.parse_args().quick
    x, y, _ = sequences(2000, seed=0)
    network = train(x, y, epochs=12)
    held_out, labels, starts = sequences(400, seed=1)
    with torch.no_grad():
        is_right = (network(torch.tensor(held_out))[:, 0].numpy() > 0.5) == labels
    print(f"held-out accuracy {is_right.mean():.1%}")
    chosen_rows = np.flatnonzero((labels == 1) & is_right)[: 20 if quick else 100]
    explanation_by_name: dict[str, Explanation] = {}
    values: list[methods.Method] = [
        methods.Gradient(), methods.SmoothGrad(50), methods.IntegratedGradients(50), methods.DeepLift(),
        methods.ShapleySampling(20 if quick else 50, groups=np.arange(LENGTH)[None].repeat(4, 0)),
    ]  # fmt: skip
    background = np.full((4, LENGTH), 0.25, np.float32)  # all letters equally likely
    for method in values:
        explain = Explainer.compile(network, method, **({} if method.baseline == "none" else {"baseline": background}))
        explanation_by_name[method.name] = explain.explanation(sequence=held_out[chosen_rows], target=0)
    print(f"{'method':<24}{'top positions in the motif':>28}")
    for name, explanation in explanation_by_name.items():
        print(f"{name:<24}{inside(explanation, starts[chosen_rows]):>27.1%}")
    folder = Path("out")
    folder.mkdir(exist_ok=True)
    path = folder / "motifs.png"
    plots.grid(explanation_by_name, samples=1, channels="first").savefig(path)
    explanation_by_name["deeplift"].to_html(folder / "motifs.html", samples=5)
    print(f"picture: {path}")
    print(ranked(explanation_by_name, explain, held_out[chosen_rows], starts[chosen_rows], background))
    for name in ("deeplift", "shapley_sampling"):
        if inside(explanation_by_name[name], starts[chosen_rows]) < LEAST:
            raise SystemExit(f"{name} put fewer than {LEAST:.0%} of its top positions inside the motif")


if __name__ == "__main__":
    main()
