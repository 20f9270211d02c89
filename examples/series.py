"""Explain a time series: ``python examples/series.py [--quick]``.

The data are synthetic heart beats in two leads. In one class the T wave is inverted, in another the QRS complex is
wide. A one-dimensional convolutional network learns to tell them apart. The curves show which part of the beat it
uses, and the table shows how much of the attribution lies where the classes differ. Writes ``out/series.png`` and
``out/series.html``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from explainers import Explainer, Explanation, methods, plots

Numpy = npt.NDArray[Any]
LENGTH = 160
KINDS = ["normal", "T wave turned", "QRS wide"]
WAVES = {"P": (35, 6.0, 0.2), "Q": (62, 2.0, -0.2), "R": (68, 2.5, 1.2), "S": (74, 2.0, -0.3), "T": (115, 9.0, 0.4)}
WHERE = {1: slice(92, 138), 2: slice(55, 83)}  # where a class differs from normal beats


def beats(count: int, seed: int) -> tuple[Numpy, Numpy]:
    """Signals (N, 2, 160) and their classes (N,)."""
    random = np.random.default_rng(seed)
    kinds = np.arange(count) % len(KINDS)
    time = np.arange(LENGTH)
    signals = 0.06 * random.normal(size=(count, 2, LENGTH)).cumsum(axis=2) / 3
    for i, kind in enumerate(kinds):
        for wave, (at, width, height) in WAVES.items():
            wide = 2.0 if kind == 2 and wave in "QRS" else 1.0
            sign = -1.0 if kind == 1 and wave == "T" else 1.0
            bump = np.exp(-(((time - at - random.normal()) / (width * wide)) ** 2) / 2)
            signals[i] += np.outer([1.0, 0.6], sign * height * random.uniform(0.8, 1.2) * bump)
    signals += 0.03 * random.normal(size=signals.shape)
    return signals.astype(np.float32), kinds


def train(x: Numpy, y: Numpy, epochs: int) -> torch.nn.Module:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv1d(2, 16, 9, padding=4), torch.nn.ReLU(), torch.nn.MaxPool1d(4),
        torch.nn.Conv1d(16, 32, 7, padding=3), torch.nn.ReLU(), torch.nn.MaxPool1d(4),
        torch.nn.Flatten(), torch.nn.Linear(320, len(KINDS)),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            outputs = network(torch.tensor(x[batch]))
            torch.nn.functional.cross_entropy(outputs, torch.tensor(y[batch])).backward()
            optimizer.step()
    return network.eval()


def share(explanation: Explanation, kinds: Numpy) -> float:
    """The fraction of Σ|attribution| that lies where the beat differs from a normal one."""
    (scores,) = (np.abs(part).sum(axis=1) for part in explanation.parts().values())
    shares = [row[WHERE[int(kind)]].sum() / row.sum() for row, kind in zip(scores, kinds, strict=True)]
    return float(np.mean(shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer beats and epochs")
    quick = parser.parse_args().quick
    x, y = beats(600 if quick else 1500, seed=0)
    network = train(x, y, epochs=6 if quick else 12)
    held_out, kinds = beats(150, seed=1)
    with torch.no_grad():
        is_right = network(torch.tensor(held_out)).numpy().argmax(axis=1) == kinds
    print(f"held-out accuracy {is_right.mean():.1%}")
    rows = np.flatnonzero(is_right & (kinds > 0))[:60]
    normal = x[y == 0].mean(axis=0)
    explanation_by_name: dict[str, Explanation] = {}
    values: list[methods.Method] = [methods.Saliency(), methods.IntegratedGradients(50), methods.DeepLift()]
    for method in values:
        options: dict[str, Any] = {} if method.baseline == "none" else {"baseline": normal}
        explain = Explainer.compile(network, method, **options)
        explanation = explain.explanation(held_out[rows], target=kinds[rows].tolist())
        explanation_by_name[method.name] = explanation
        print(f"{method.name:<22} {share(explanation, kinds[rows]):.0%} of it where the beat differs")
    folder = Path("out")
    folder.mkdir(exist_ok=True)
    path = folder / "series.png"
    view: dict[str, Any] = {"names": ["lead I", "lead II"], "classes": KINDS, "samples": 2}
    plots.grid(explanation_by_name, **view).savefig(path)
    explanation_by_name["deeplift"].to_html(folder / "series.html", **view)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
