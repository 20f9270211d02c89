"""Influence: how well it predicts training without some samples, and what it costs.

``lds``: for each of 40 random halves of digits a network is trained, with three seeds. The score of a method is the
rank correlation, over the halves, of a test's loss with the sum of the influences of the half's samples on it, the mean
over tests (Park et al. 2023, section 4). ``cost``: beside derivatives by ``torch.func``, and beside pyDVL. Peers that
are installed get the same networks.

    python -m benchmarks.influence lds [--decay 0.005] [--json FILE]
    python -m benchmarks.influence cost [--rounds 5]
    python -m benchmarks.influence memory
    python -m benchmarks.influence spread [--tests 1000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
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

HIDDEN, EPOCHS, RATE, BATCH, CHECKPOINTS = 32, 80, 0.1, 64, 8


# --- predicting what training would do ---------------------------------------------------------------


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Digits: 1,000 training samples and 200 tests."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int64)
    return x[:1000], y[:1000], x[1000:1200], y[1000:1200]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))


def outputs(weights: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Of M networks at (M, n, 64): (M, n, 10)."""
    a, b, c, d = weights
    hidden = torch.relu(torch.baddbmm(b[:, None], x, a.transpose(1, 2)))
    return torch.baddbmm(d[:, None], hidden, c.transpose(1, 2))


def trained(
    x: np.ndarray, y: np.ndarray, rows: np.ndarray, seeds: list[int], decay: float
) -> tuple[list[torch.Tensor], list[tuple[float, list[torch.Tensor]]]]:
    """Weights of networks trained side by side, each on its ``rows`` (M, n), and those at checkpoints with the rate."""
    models = []
    for seed in seeds:
        torch.manual_seed(seed)
        models.append([p.detach() for p in network().parameters()])
    weights = [torch.stack(parts).requires_grad_() for parts in zip(*models, strict=True)]
    a, b, index = torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(rows)
    optimizer = torch.optim.SGD(weights, RATE, momentum=0.9, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    generator, kept = torch.Generator().manual_seed(0), []
    for epoch in range(EPOCHS):
        order = index.gather(1, torch.rand(index.shape, generator=generator).argsort(1))
        for part in order.split(BATCH, 1):
            f = outputs(weights, a[part])
            loss = nn.functional.cross_entropy(f.flatten(0, 1), b[part].flatten(), reduction="none")
            optimizer.zero_grad()
            loss.reshape(part.shape).mean(1).sum().backward()
            optimizer.step()
        if (epoch + 1) % (EPOCHS // CHECKPOINTS) == 0:
            kept.append((schedule.get_last_lr()[0], [w.detach().clone() for w in weights]))
        schedule.step()
    return [w.detach() for w in weights], kept


def model_of(weights: list[torch.Tensor], place: int) -> nn.Sequential:
    model = network()
    with torch.no_grad():
        for p, w in zip(model.parameters(), weights, strict=True):
            p.copy_(w[place])
    return model.eval()


def ranks(array: np.ndarray) -> np.ndarray:
    found = array.argsort(axis=0).argsort(axis=0).astype(float)
    return found - found.mean(axis=0)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The mean over tests of the rank correlation over halves."""
    a, b = ranks(a), ranks(b)
    return float(((a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))).mean())


def methods(states: list[Any], decay: float) -> dict[str, Any]:
    return {
        "EKFAC": EKFAC(), "EKFAC, every output": EKFAC(draws=None), "KFAC": KFAC(), "GaussNewton": GaussNewton(),
        "GaussNewton, λ = weight decay": GaussNewton(damping=decay),
        "ConjugateGradient, λ = weight decay": ConjugateGradient(damping=decay, tolerance=1e-2),
        "Nystroem(256)": Nystroem(rank=256), "Arnoldi(64)": Arnoldi(), "LiSSA(200)": LiSSA(depth=200),
        "HarmonicMean": HarmonicMean(), "GradientSimilarity": GradientSimilarity(),
        "GradientSimilarity, cosine": GradientSimilarity(cosine=True),
        "TracIn, 8 checkpoints": TracIn([s for _, s in states], [r for r, _ in states]), "TRAK(1024)": TRAK(),
    }  # fmt: skip


def lds(arguments: argparse.Namespace) -> None:
    x, y, xt, yt = data()
    draw = np.random.default_rng(1)
    halves = np.array([np.sort(draw.permutation(len(x))[: len(x) // 2]) for _ in range(40)])

    def losses(first: int) -> np.ndarray:
        seeds = [first + seed for _ in halves for seed in range(3)]
        weights, _ = trained(x, y, np.repeat(halves, 3, axis=0), seeds, arguments.decay)
        f = outputs(weights, torch.from_numpy(xt)[None].expand(len(seeds), -1, -1))
        found = nn.functional.cross_entropy(f.flatten(0, 1), torch.from_numpy(yt).repeat(len(seeds)), reduction="none")
        return found.reshape(len(halves), 3, -1).mean(1).numpy()

    wanted = losses(1000)
    print(f"networks of other seeds: {correlation(losses(2000), wanted):.3f}")
    table: dict[str, list[tuple[float, float]]] = {}
    weights, kept = trained(x, y, np.tile(np.arange(len(x)), (3, 1)), [0, 1, 2], arguments.decay)
    names = [name for name, _ in network().named_parameters()]
    for place in range(3):
        model = model_of(weights, place)
        states = [(rate, {n: w[place] for n, w in zip(names, parts, strict=True)}) for rate, parts in kept]
        runs: dict[str, Callable[[], np.ndarray]] = {}
        for name, method in methods(states, arguments.decay).items():
            runs[name] = lambda method=method, model=model: Influence.compile(
                model, "cross_entropy", method, inputs=x[:2]
            ).fit((x, y))((xt, yt))  # fmt: skip
        for name, peer in peers().items():
            runs[name] = lambda peer=peer, model=model: peer(model, x, y, xt, yt)
        for name, run in runs.items():
            began = time.perf_counter()
            found = run()
            seconds = time.perf_counter() - began
            predicted = np.array([found[:, half].sum(axis=1) for half in halves])
            table.setdefault(name, []).append((correlation(predicted, -wanted), seconds))
    print("| method | LDS | ± | seconds |\n|---|---|---|---|")
    for name, rows in table.items():
        scores, seconds = np.array(rows).T
        print(f"| {name} | {scores.mean():.3f} | {scores.std():.3f} | {np.median(seconds):.1f} |", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(table, indent=1))


# --- peers -------------------------------------------------------------------------------------------


def peers() -> dict[str, Callable[..., np.ndarray]]:
    found: dict[str, Callable[..., np.ndarray]] = {}
    if importlib.util.find_spec("pydvl"):
        found |= {"pyDVL EK-FAC": pydvl_ekfac, "pyDVL CG": pydvl_cg}
    if importlib.util.find_spec("kronfluence"):
        found["kronfluence EK-FAC"] = kronfluence
    if importlib.util.find_spec("dattri"):
        found["dattri EK-FAC"] = dattri
    return found


def loader(x: np.ndarray, y: np.ndarray, size: int = 128) -> Any:
    made = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    return torch.utils.data.DataLoader(made, batch_size=size)


def pydvl_ekfac(model: nn.Module, x: Any, y: Any, xt: Any, yt: Any) -> np.ndarray:
    from pydvl.influence.torch import EkfacInfluence

    fitted = EkfacInfluence(model, update_diagonal=True, hessian_regularization=1e-2, progress=False)
    return _pydvl_scores(fitted.fit(loader(x, y)), x, y, xt, yt)


def pydvl_cg(model: nn.Module, x: Any, y: Any, xt: Any, yt: Any) -> np.ndarray:
    from pydvl.influence.torch import CgInfluence

    fitted = CgInfluence(
        model, nn.functional.cross_entropy, regularization=1e-1, maxiter=100, solve_simultaneously=True
    )
    return _pydvl_scores(fitted.fit(loader(x, y)), x, y, xt, yt)


def _pydvl_scores(fitted: Any, x: Any, y: Any, xt: Any, yt: Any) -> np.ndarray:
    tensors = [torch.from_numpy(array) for array in (xt, yt, x, y)]
    return np.asarray(fitted.influences(*tensors, mode="up").detach().numpy())


def kronfluence(model: nn.Module, x: Any, y: Any, xt: Any, yt: Any) -> np.ndarray:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.task import Task

    class Digits(Task):
        def compute_train_loss(self, batch: Any, model: Any, sample: bool = False) -> Any:
            logits = model(batch[0])
            labels = torch.multinomial(logits.softmax(-1).detach(), 1).flatten() if sample else batch[1]
            return nn.functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: Any) -> Any:
            return self.compute_train_loss(batch, model)

    train, test = loader(x, y).dataset, loader(xt, yt).dataset
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare_model(copy.deepcopy(model), Digits())
        analyzer = Analyzer("digits", prepared, Digits(), cpu=True, output_dir=folder, disable_tqdm=True)
        analyzer.fit_all_factors("factors", train, per_device_batch_size=128)
        analyzer.compute_pairwise_scores(
            "scores", "factors", test, train, per_device_query_batch_size=len(xt), per_device_train_batch_size=500
        )
        return np.asarray(analyzer.load_pairwise_scores("scores")["all_modules"])


def dattri(model: nn.Module, x: Any, y: Any, xt: Any, yt: Any) -> np.ndarray:
    from dattri.algorithm.influence_function import IFAttributorEKFAC
    from dattri.task import AttributionTask

    own = copy.deepcopy(model)

    def loss(weights: Any, data: Any) -> Any:
        f = torch.func.functional_call(own, weights, (data[0],))
        return nn.functional.cross_entropy(f, data[1])

    task = AttributionTask(loss, own, {name: w.detach() for name, w in own.named_parameters()})
    attributor = IFAttributorEKFAC(task, damping=1e-2)
    attributor.cache(loader(x, y))
    with torch.no_grad():
        return np.asarray(attributor.attribute(loader(x, y), loader(xt, yt)).T)


# --- cost --------------------------------------------------------------------------------------------


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
        self.embed, self.encoder, self.head = nn.Embedding(200, 64), nn.TransformerEncoder(layer, 2), nn.Linear(64, 10)

    def forward(self, ids: Any) -> Any:
        return self.head(self.encoder(self.embed(ids)).mean(1))


def cells() -> dict[str, tuple[nn.Module, Any]]:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    lenet = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    return {
        "MLP 784-1024-1024-10": (mlp.eval(), torch.randn(64, 784)),
        "LeNet": (lenet.eval(), torch.randn(64, 1, 28, 28)),
        "transformer, 2 layers, 32 tokens": (Transformer().eval(), torch.randint(0, 200, (64, 32))),
    }


def materialized(model: nn.Module, tests: tuple[Any, Any], trains: tuple[Any, Any]) -> Callable[[], Any]:
    """All products of the derivatives of tests and training samples by vmap(grad)."""
    weights = {name: w.detach() for name, w in model.named_parameters()}

    def loss(weights: Any, sample: Any, label: Any) -> Any:
        f = torch.func.functional_call(model, weights, (sample[None],))
        return nn.functional.cross_entropy(f, label[None])

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))

    def flat(x: Any, y: Any) -> Any:
        return torch.cat([part.reshape(len(y), -1) for part in each(weights, x, y).values()], 1)

    return lambda: flat(*tests) @ flat(*trains).T


def medians(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 2):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if turn >= 2:
                times[name].append(time.perf_counter() - began)
    return {name: float(np.median(own)) for name, own in times.items()}


def cost(arguments: argparse.Namespace) -> None:
    heads = [
        "32 tests × 32 training samples",
        "products ms",
        "vmap(grad) ms",
        "÷",
        "EKFAC fit ms",
        "scores ms",
        "pyDVL fit ms",
    ]
    heads += ["scores ms", "fit ÷", "scores ÷"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for name, (model, x) in cells().items():
        y = torch.randint(0, 10, (len(x),))
        half = len(x) // 2
        tests, trains = (x[:half], y[:half]), (x[half:], y[half:])
        pair, asked = (tuple(part.numpy() for part in both) for both in (trains, tests))
        similar = Influence.compile(model, method=GradientSimilarity(), inputs=x[:2]).fit(pair)
        influence = Influence.compile(model, method=EKFAC(), inputs=x[:2])
        fitted = influence.fit(pair)
        np.testing.assert_allclose(similar(asked), materialized(model, tests, trains)().numpy(), rtol=1e-2, atol=1e-3)
        runs = {
            "products": lambda similar=similar, asked=asked: similar(asked),
            "vmap": materialized(model, tests, trains),
            "fit": lambda influence=influence, pair=pair: influence.fit(pair),
            "scores": lambda fitted=fitted, asked=asked: fitted(asked),
        }
        if importlib.util.find_spec("pydvl") and name != "transformer, 2 layers, 32 tokens":
            runs |= _pydvl_runs(model, tests, trains)
        found = {key: 1e3 * value for key, value in medians(runs, arguments.rounds).items()}
        row = [found["products"], found["vmap"], found["products"] / found["vmap"], found["fit"], found["scores"]]
        more = ["—"] * 4
        if "peer fit" in found:
            more = [f"{found[key]:.1f}" for key in ("peer fit", "peer scores")]
            more += [f"{found['fit'] / found['peer fit']:.2f}", f"{found['scores'] / found['peer scores']:.2f}"]
        print(f"| {name} | " + " | ".join([*(f"{value:.3g}" for value in row), *more]) + " |", flush=True)


def _pydvl_runs(model: nn.Module, tests: tuple[Any, Any], trains: tuple[Any, Any]) -> dict[str, Callable[[], Any]]:
    from pydvl.influence.torch import EkfacInfluence

    def fit() -> Any:
        made = EkfacInfluence(model, update_diagonal=True, hessian_regularization=1e-2, progress=False)
        return made.fit(loader(*(part.numpy() for part in trains), 32))

    try:
        fitted = fit()
    except Exception as error:  # it takes linear layers only
        print(f"<!-- pyDVL: {type(error).__name__}: {error} -->")
        return {}
    return {"peer fit": fit, "peer scores": lambda: fitted.influences(*tests, *trains, mode="up")}


def memory(arguments: argparse.Namespace) -> None:
    """The most memory of a fit and of self-influences, beyond the data, as training samples grow."""
    print("| samples | RSS of fit + self-influence, MiB |\n|---|---|")
    model, process = cells()["LeNet"][0], psutil.Process()
    for count in (1_000, 4_000, 16_000):
        x = np.random.default_rng(0).standard_normal((count, 1, 28, 28)).astype(np.float32)
        pair = x, np.random.default_rng(1).integers(0, 10, count)
        fitted = Influence.compile(model, inputs=x[:2]).fit(pair)
        fitted.self_influence()
        data_size = x.nbytes / 2**20
        print(f"| {count:,} | {process.memory_info().rss / 2**20 - data_size:,.0f} |", flush=True)


def spread(arguments: argparse.Namespace) -> None:
    """Scores as a dask array, on one worker process and on two, written in chunks unlike its blocks."""
    from dask.distributed import Client, LocalCluster

    from explainers import cluster

    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)).eval()
    random = np.random.default_rng(0)
    trains, tests = (
        (random.standard_normal((count, 784)).astype(np.float32), random.integers(0, 10, count))
        for count in (20_000, arguments.tests)
    )
    times: dict[int, list[float]] = {1: [], 2: []}
    zarr = importlib.import_module("zarr")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        stored = []  # workers read what they need
        for number, array in enumerate(trains):
            stored.append(zarr.create_array(str(place / f"train{number}"), data=array, chunks=(1000, *array.shape[1:])))
        fitted = Influence.compile(model, inputs=trains[0][:1]).fit(tuple(stored))
        lazy = fitted.lazy(tests, chunks=(100, 1000))
        for turn in range(arguments.rounds):
            for workers in times:
                with (
                    LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as local,
                    Client(local),  # type: ignore[no-untyped-call]
                ):
                    lazy.to_dask()[:1, :10].compute()  # each process compiles the model
                    began = time.perf_counter()
                    lazy.to_dask().sum(axis=0).compute()
                    times[workers].append(time.perf_counter() - began)
                    if not turn:
                        odd = lazy.to_dask().rechunk((333, 1111)).astype(np.float32)
                        cluster.to_zarr(odd, place / f"{workers}.zarr")
        wanted = fitted(tests)
        for workers in times:
            found = zarr.open_array(str(place / f"{workers}.zarr"), mode="r")[:]
            difference = abs(found - wanted).max() / abs(wanted).max()
            print(
                f"{workers} workers, blocks of 100 × 1,000 written in chunks of 333 × 20,000: off by {difference:.0e}"
            )
    one, two = (float(np.median(own)) for own in times.values())
    ratio = float(np.median([a / b for a, b in zip(*times.values(), strict=True)]))
    print(f"{len(tests[1]):,} × 20,000 scores on 1 → 2 worker processes: {one:.1f} s → {two:.1f} s, {ratio:.2f} ×")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["lds", "cost", "memory", "spread"])
    parser.add_argument("--decay", type=float, default=5e-3, help="weight decay of the training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tests", type=int, default=1000, help="tests of spread")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    {"lds": lds, "cost": cost, "memory": memory, "spread": spread}[arguments.what](arguments)


if __name__ == "__main__":
    main()
