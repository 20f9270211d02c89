"""Reading, explaining and writing at once: samples per second from sources and to disk, over those in memory.

    python -m benchmarks.pipeline [--samples 131072] [--rounds 5] [--cluster]

In memory: one call with all samples. A source is read, explained and thrown away; the loops are what users write by
hand with a DataLoader and ``tf.data``. Torch has one thread, so that the reader has a core. ``--cluster``: Shapley
values of dask arrays on one worker process and on two.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from explainers import Explainer, methods

from .timing import machine, median

Numpy = npt.NDArray[Any]
BLOCK = 4096


def mlp(hidden: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def sources(x: Numpy, folder: Path) -> dict[str, Callable[[], Any]]:
    """What opens each source; files are written once."""
    zarr, pyarrow = import_module("zarr"), import_module("pyarrow")
    parquet = import_module("pyarrow.parquet")
    np.save(folder / "x.npy", x)
    store = zarr.create_array(str(folder / "x.zarr"), shape=x.shape, dtype=x.dtype, chunks=(BLOCK, 784))
    store[:] = x
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(x.reshape(-1)), 784)
    parquet.write_table(pyarrow.table({"input": lists}), folder / "x.parquet", row_group_size=BLOCK)
    return {
        "npy": lambda: np.load(folder / "x.npy", mmap_mode="r"),
        "zarr": lambda: zarr.open_array(str(folder / "x.zarr"), mode="r"),
        "parquet, lists": lambda: parquet.ParquetFile(folder / "x.parquet"),
        "generator": lambda: (x[i : i + 512] for i in range(0, len(x), 512)),
        "DataLoader": lambda: loader(x),
    }


def loader(x: Numpy) -> Any:
    rows = torch.utils.data.TensorDataset(torch.from_numpy(x))
    order = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(rows), BLOCK, drop_last=False)
    return torch.utils.data.DataLoader(rows, sampler=order, batch_size=None)


def by_hand(explain: Explainer, x: Numpy) -> dict[str, Callable[[], None]]:
    def with_loader() -> None:
        for (part,) in loader(x):
            explain(part, target=0)

    def with_tf_data() -> None:
        tf = import_module("tensorflow")
        for part in tf.data.Dataset.from_tensor_slices(x).batch(BLOCK).prefetch(2).as_numpy_iterator():
            explain(part, target=0)

    return {"loop over a DataLoader": with_loader, "loop over tf.data": with_tf_data}


def interleaved(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def streams(count: int, rounds: int) -> None:
    x = np.random.default_rng(0).normal(size=(count, 784)).astype(np.float32)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        opened = sources(x, folder)
        for hidden in (32, 1024):
            explain = Explainer.compile(mlp(hidden), "saliency", inputs=x[:1])
            explain(x[:BLOCK], target=0)

            def in_memory(explain: Explainer = explain) -> None:
                explain(x, target=0)

            def read(name: str, explain: Explainer = explain) -> Callable[[], None]:
                return lambda: [None for _ in explain.stream(opened[name](), target=0, block=BLOCK)] and None

            def kept(suffix: str, explain: Explainer = explain) -> Callable[[], None]:
                write = explain.to_zarr if suffix == ".zarr" else explain.to_parquet
                return lambda: write(
                    opened["npy"](), folder / f"out{suffix}", target=0, block=BLOCK, details=False, overwrite=True
                ) and None  # fmt: skip

            runs = {"in memory": in_memory, **{f"stream of {name}": read(name) for name in opened}}
            runs |= {"npy to zarr": kept(".zarr"), "npy to parquet": kept(".parquet")}
            runs |= by_hand(explain, x)
            times = interleaved(runs, rounds)
            print(f"\n| saliency, MLP 784-{hidden}-{hidden}-10 | thousand samples/s | of those in memory |")
            print("|---|--:|--:|")
            for name, seconds in times.items():
                share = median([b / a for a, b in zip(seconds, times["in memory"], strict=True)])
                print(f"| {name} | {count / median(seconds) / 1e3:,.0f} | {share:.2f} |", flush=True)


def overlap(rounds: int) -> None:
    """A source and a model that take the same time a block."""

    def slow(x: Any) -> Any:
        time.sleep(0.02)
        return np.asarray(x)[:, 0]

    block, count = np.ones((64, 4)), 20
    explain = Explainer.compile(slow, "feature_ablation", inputs=block)
    alone, together = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            explain(block)
        alone.append((time.perf_counter() - start) / count)

        def source(seconds: float = alone[-1]) -> Iterator[Numpy]:
            for _ in range(count):
                time.sleep(seconds)
                yield block.copy()

        start = time.perf_counter()
        for _ in explain.stream(source(), block=64):
            pass
        together.append((time.perf_counter() - start) / count)
    ratio = median([a / b for a, b in zip(together, alone, strict=True)])
    print(f"\na source and a model of {1e3 * median(alone):.0f} ms a block each: {ratio:.2f} × that a block")


def cluster(rounds: int) -> None:
    from dask.distributed import Client, LocalCluster

    from explainers import cluster as clusters

    da = import_module("dask.array")
    explain = Explainer.compile(mlp(256), methods.ShapleySampling(10), inputs=np.zeros((1, 784), np.float32))
    x = da.from_array(np.random.default_rng(0).normal(size=(256, 784)).astype(np.float32), chunks=(4, 784))
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers in times:
            with (
                LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as local,
                Client(local),  # type: ignore[no-untyped-call]
            ):
                clusters.explain(x, explain, target=0).compute()  # each process loads the explainer
                start = time.perf_counter()
                clusters.explain(x, explain, target=0).compute()
                times[workers].append(time.perf_counter() - start)
    one, two = median(times[1]), median(times[2])
    ratio = median([a / b for a, b in zip(times[1], times[2], strict=True)])
    print(f"\nShapley values on 1 → 2 worker processes: {one:.2f} s → {two:.2f} s, {ratio:.2f} ×")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=2**17)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cluster", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"{machine()}; torch {torch.__version__}, 1 thread, blocks of {BLOCK}")
    if given.cluster:
        cluster(given.rounds)
        return
    overlap(given.rounds)
    streams(given.samples, given.rounds)


if __name__ == "__main__":
    main()
