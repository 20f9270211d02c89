"""DeepLIFT over each sequence's own shuffles: one call, a loop of calls, and tangermeme (pip install tangermeme).

    python -m benchmarks.shuffles --sequences 100 --shuffles 20

A dilated CNN over 4 × 2114 letters; hypothetical contributions. Both get the same shuffles, tangermeme in batches of
32, its default. Rounds are interleaved; ratios are medians of the rounds. The first line is the shuffling alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from explainers import Explainer, References, genomics, methods

from .models import Dilated
from .timing import machine, median, ratio, rounds

CHECKED = 4  # sequences whose results are compared
PEER = importlib.util.find_spec("tangermeme") is not None


class WithModules(Dilated):
    """The same with a module for each ReLU, which tangermeme puts its rules on."""

    def __init__(self) -> None:
        super().__init__()
        self.bends = torch.nn.ModuleList(torch.nn.ReLU() for _ in range(len(self.body) + 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bends[0](self.stem(x))
        for conv, bend in zip(self.body, self.bends[1:], strict=True):
            x = x + bend(conv(x))
        return self.head(x.mean(2))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shuffles", description=__doc__.partition("\n")[0])
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--shuffles", type=int, default=20)
    parser.add_argument("--length", type=int, default=2114)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    letters = np.random.default_rng(0).integers(0, 4, (args.sequences, args.length))
    x = np.ascontiguousarray(np.eye(4, dtype=np.float32)[letters].transpose(0, 2, 1))
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{args.sequences} sequences × {args.shuffles} shuffles × 4 × {args.length}")
    report("shuffling", shuffling(x, args.shuffles), args.seconds, args.rounds)
    report("deeplift_shap", explaining(x, args.shuffles), args.seconds, args.rounds)


def shuffling(x: np.ndarray, shuffles: int) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {"explainers": lambda: genomics.dinucleotide_shuffle(x, shuffles)}
    if PEER:
        from tangermeme.ersatz import dinucleotide_shuffle

        found["tangermeme"] = lambda: dinucleotide_shuffle(torch.tensor(x), n=shuffles, random_state=0)
    return found


def explaining(x: np.ndarray, shuffles: int) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    model = WithModules().eval()
    table = genomics.dinucleotide_shuffle(x, shuffles)
    explain = Explainer.compile(model, methods.DeepLiftShap(hypothetical=True), inputs=x)
    references = References(table, per_sample=True)

    def loop() -> Any:
        parts = [explain(x[i : i + 1], target=0, baseline=References(table[i])) for i in range(len(x))]
        return np.concatenate(parts)

    found: dict[str, Callable[[], object]] = {
        "explainers": lambda: explain(x, target=0, baseline=references), "a loop of calls": loop,
    }  # fmt: skip
    if PEER:
        from tangermeme.deep_lift_shap import deep_lift_shap

        def peer(count: int = len(x)) -> Any:
            sequences, sets = torch.tensor(x[:count]), torch.tensor(table[:count])
            return deep_lift_shap(model, sequences, references=sets, hypothetical=True, device="cpu")

        found["tangermeme"] = peer
        own = explain(x[:CHECKED], target=0, baseline=References(table[:CHECKED], per_sample=True))
        print(f"largest difference from tangermeme: {abs(peer(CHECKED).numpy() - own).max():.1e}")
    return found


def report(title: str, candidates: dict[str, Callable[[], object]], seconds: float, least: int) -> None:
    times = rounds(candidates, seconds, least_rounds=max(least, 2), warm=0.0)
    for name, found in times.items():
        middle, low, high = ratio(times["explainers"], found)
        print(f"{title:14} {name:16} {median(found):8.3f} s   explainers / it {middle:.2f} ({low:.2f}–{high:.2f})")


if __name__ == "__main__":
    main()
