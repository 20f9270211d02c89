"""How well influences predict what training without some samples does: the linear datamodeling score on digits.

For each of 40 random halves of the training data a network is trained, with several seeds. The score of a method is the
rank correlation, over the halves, of a test's loss with the sum of the influences of the half's samples on it, averaged
over the tests (Park et al. 2023, section 4). Peers that are installed are given the same networks.

    python -m benchmarks.influence lds [--halves 40] [--seeds 3] [--json FILE]
    python -m benchmarks.influence cost [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from explainers.influence import (
    EKFAC,
    KFAC,
    TRAK,
    Arnoldi,
    ConjugateGradient,
    GaussNewton,
    GradientSimilarity,
    HarmonicMean,
    Influence,
    LiSSA,
    Nystroem,
    TracIn,
)

HIDDEN, EPOCHS, RATE, DECAY, BATCH = 32, 40, 0.1, 1e-3, 64


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Digits: 1,000 training samples and 200 tests."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int64)
    return x[:1000], y[:1000], x[1000:1200], y[1000:1200]


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))


def trained(x: np.ndarray, y: np.ndarray, seed: int, keep: bool = False) -> tuple[nn.Sequential, list[Any]]:
    """A trained network, and its weights after every eighth of the epochs if they are to be kept."""
    model = network(seed)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    generator = torch.Generator().manual_seed(seed)
    states = []
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(a), generator=generator).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(a[rows]), b[rows]).backward()
            optimizer.step()
        if keep and (epoch + 1) % (EPOCHS // 8) == 0:
            states.append((schedule.get_last_lr()[0], {k: v.clone() for k, v in model.state_dict().items()}))
        schedule.step()
    return model.eval(), states


def outcomes(x: np.ndarray, y: np.ndarray, tests: Any, halves: np.ndarray, seeds: int) -> np.ndarray:
    """The tests' losses after training on each half, the mean over seeds, (halves, tests)."""
    found = []
    for half in halves:
        losses = []
        for seed in range(seeds):
            model, _ = trained(x[half], y[half], 1000 + seed)
            with torch.no_grad():
                losses.append(nn.functional.cross_entropy(model(tests[0]), tests[1], reduction="none").numpy())
        found.append(np.mean(losses, axis=0))
    return np.array(found)


def ranks(array: np.ndarray) -> np.ndarray:
    return array.argsort(axis=0).argsort(axis=0).astype(float)


def score(influence: np.ndarray, halves: np.ndarray, losses: np.ndarray) -> tuple[float, float]:
    """The linear datamodeling score, its mean over tests and the standard error."""
    predicted = np.array([influence[:, half].sum(axis=1) for half in halves])
    a, b = ranks(predicted), ranks(-losses)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    each = (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return float(each.mean()), float(each.std() / np.sqrt(len(each)))


def methods(states: list[Any]) -> dict[str, Any]:
    return {
        "EKFAC": EKFAC(), "EKFAC, every output": EKFAC(draws=None), "KFAC": KFAC(), "GaussNewton": GaussNewton(),
        "ConjugateGradient": ConjugateGradient(tolerance=1e-2), "Nystroem(256)": Nystroem(rank=256),
        "Arnoldi(64)": Arnoldi(), "LiSSA(200)": LiSSA(depth=200), "HarmonicMean": HarmonicMean(),
        "GradientSimilarity": GradientSimilarity(), "cosine": GradientSimilarity(cosine=True),
        "TracIn, 8 checkpoints": TracIn([s for _, s in states], [r for r, _ in states]), "TRAK(1024)": TRAK(),
    }  # fmt: skip


def lds(arguments: argparse.Namespace) -> None:
    x, y, xt, yt = data()
    tests = torch.from_numpy(xt), torch.from_numpy(yt)
    draw = np.random.default_rng(1)
    halves = np.array([np.sort(draw.permutation(len(x))[: len(x) // 2]) for _ in range(arguments.halves)])
    known = Path(arguments.outcomes) if arguments.outcomes else None
    if known is not None and known.exists():
        losses = np.load(known)
    else:
        losses = outcomes(x, y, tests, halves, arguments.seeds)
        if known is not None:
            np.save(known, losses)
    table: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(arguments.seeds):
        model, states = trained(x, y, seed, keep=True)
        for name, method in methods(states).items():
            began = time.perf_counter()
            fitted = Influence.compile(model, "cross_entropy", method, inputs=x[:2]).fit((x, y))
            found = fitted((xt, yt))
            table.setdefault(name, []).append((*score(found, halves, losses), time.perf_counter() - began))
        for name, peer in peers().items():
            began = time.perf_counter()
            found = peer(model, x, y, xt, yt)
            table.setdefault(name, []).append((*score(found, halves, losses), time.perf_counter() - began))
    print(f"{'method':32}{'LDS':>8}{'±':>8}{'seconds':>9}")
    for name, rows in table.items():
        values = np.array(rows)
        print(f"{name:32}{values[:, 0].mean():8.3f}{values[:, 0].std():8.3f}{np.median(values[:, 2]):9.1f}", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(table, indent=1))


# --- peers -------------------------------------------------------------------------------------------


def peers() -> dict[str, Callable[..., np.ndarray]]:
    found: dict[str, Callable[..., np.ndarray]] = {}
    try:
        import pydvl.influence.torch as _
    except ImportError:
        pass
    else:
        found |= {"pyDVL EK-FAC": _pydvl_ekfac, "pyDVL CG": _pydvl_cg}
    try:
        import kronfluence as _  # noqa: F401
    except ImportError:
        pass
    else:
        found["kronfluence EK-FAC"] = _kronfluence
    return found


def _loader(x: np.ndarray, y: np.ndarray, size: int = 128) -> Any:
    set_ = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    return torch.utils.data.DataLoader(set_, batch_size=size)


def _pydvl_ekfac(model: nn.Module, x: Any, y: Any, xt: Any, yt: Any) -> np.ndarray:
    from pydvl.influence.torch import EkfacInfluence

    fitted = EkfacInfluence(model, update_diagonal=True, hessian_regularization=1e-2, progress=False).fit(_loader(x, y))
    return _pydvl_scores(fitted, x, y, xt, yt)


def _pydvl_cg(model: nn.Module, x: Any, y: Any, xt: Any, yt: Any) -> np.ndarray:
    from pydvl.influence.torch import CgInfluence

    fitted = CgInfluence(
        model, nn.functional.cross_entropy, regularization=1e-1, maxiter=100, solve_simultaneously=True
    ).fit(_loader(x, y))
    return _pydvl_scores(fitted, x, y, xt, yt)


def _pydvl_scores(fitted: Any, x: Any, y: Any, xt: Any, yt: Any) -> np.ndarray:
    tensors = [torch.from_numpy(array) for array in (xt, yt, x, y)]
    return np.asarray(fitted.influences(*tensors, mode="up").detach().numpy())


def _kronfluence(model: nn.Module, x: Any, y: Any, xt: Any, yt: Any) -> np.ndarray:
    import copy
    import tempfile

    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.task import Task

    class Digits(Task):
        def compute_train_loss(self, batch: Any, model: Any, sample: bool = False) -> Any:
            logits = model(batch[0])
            labels = torch.multinomial(logits.softmax(-1).detach(), 1).flatten() if sample else batch[1]
            return nn.functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: Any) -> Any:
            return self.compute_train_loss(batch, model)

    train, test = _loader(x, y).dataset, _loader(xt, yt).dataset
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_model(copy.deepcopy(model), Digits())
        analyzer = Analyzer("digits", prepared, Digits(), cpu=True, output_dir=folder, disable_tqdm=True)
        analyzer.fit_all_factors("factors", train, per_device_batch_size=128)
        analyzer.compute_pairwise_scores(
            "scores", "factors", test, train, per_device_query_batch_size=200, per_device_train_batch_size=500
        )
        return np.asarray(analyzer.load_pairwise_scores("scores")["all_modules"])


# --- cost --------------------------------------------------------------------------------------------


def cost(arguments: argparse.Namespace) -> None:
    raise SystemExit("see below")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lds", "cost"])
    parser.add_argument("--halves", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--outcomes", help="a file that keeps the losses of the retrained networks")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    {"lds": lds, "cost": cost}[arguments.what](arguments)


if __name__ == "__main__":
    main()
