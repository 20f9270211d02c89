"""Explanations of dask arrays: the same for any chunks and workers, loaded once in a process, and safe if one dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, methods
from explainers.errors import BaselineError, ExplainersError, InputError

da = pytest.importorskip("dask.array")
dask = pytest.importorskip("dask")
torch = pytest.importorskip("torch")
cluster = pytest.importorskip("explainers.cluster")

N, D = 61, 5
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
Y = np.random.default_rng(1).integers(3, size=N)
CHUNKS = (1, 7, 20, (30, 1, 30), N)


@pytest.fixture(scope="module")
def explain() -> Explainer:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(D, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return Explainer.compile(model, methods.ShapleySampling(4), inputs=X[:1])


@pytest.fixture(scope="module")
def whole(explain: Explainer) -> Any:
    return explain(X, target=Y, seed=3)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with (
        dask.config.set({"distributed.worker.daemon": False}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as local,
        distributed.Client(local) as found,
    ):
        yield found


@pytest.mark.parametrize("block", [None, 9])
@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_any_chunks_are_one_call(chunk: Any, block: int | None, explain: Explainer, whole: Any) -> None:
    lazy = da.from_array(X, chunks=(chunk, 2))
    found = cluster.explain(lazy, explain, target=Y, seed=3, block=block)
    assert found.shape == X.shape
    assert found.dtype == X.dtype
    assert_same(found.compute(scheduler="threads"), whole)


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_targets_in_other_chunks(chunk: Any, explain: Explainer, whole: Any) -> None:
    targets = da.from_array(Y, chunks=(chunk,))
    for rows in (7, 20):
        found = cluster.explain(da.from_array(X, chunks=(rows, D)), explain, target=targets, seed=3)
        assert_same(found.compute(scheduler="threads"), whole)


def assert_same(found: Any, wanted: Any) -> None:
    """Equal but for rounding: processors multiply matrices of other sizes in another order."""
    np.testing.assert_allclose(found, wanted, atol=1e-6 * abs(np.asarray(wanted)).max(initial=0.0))


def test_slices_and_sums_are_lazy(explain: Explainer, whole: Any) -> None:
    found = cluster.explain(da.from_array(X, chunks=(10, D)), explain, target=Y, seed=3)
    before = cluster.loads
    assert_same(found[25:30].compute(scheduler="threads"), whole[25:30])
    np.testing.assert_allclose(found.mean(axis=0).compute(scheduler="threads"), whole.mean(axis=0), rtol=1e-5)
    assert cluster.loads - before <= 1


def test_several_inputs_and_baselines() -> None:
    class Two(torch.nn.Module):
        def forward(self, a: Any, b: Any) -> Any:
            return torch.tanh(a).sum(1, keepdim=True) * b

    explain = Explainer.compile(Two(), "integrated_gradients", inputs=(X[:1], X[:1, :1]))
    want = explain(X, X[:, :1], baseline=0.5)
    lazy = da.from_array(X, chunks=(13, D)), da.from_array(X[:, :1], chunks=(20, 1))
    found = cluster.explain(lazy, explain, baseline=0.5)
    for one, other in zip(dask.compute(*found, scheduler="threads"), want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    named = cluster.explain({"b": lazy[1], "a": lazy[0]}, explain, baseline=0.5)
    np.testing.assert_allclose(named["b"].compute(scheduler="threads"), want[1], atol=1e-6)


def test_a_set_of_references(explain: Explainer) -> None:
    gradient_shap = Explainer.compile(torch.nn.Linear(D, 3), methods.GradientShap(samples=5), inputs=X[:1])
    references = References(X[:6])
    found = cluster.explain(da.from_array(X, chunks=(13, D)), gradient_shap, target=1, baseline=references, seed=2)
    want = gradient_shap(X, target=1, baseline=references, seed=2)
    np.testing.assert_allclose(found.compute(scheduler="threads"), want, atol=1e-7)


def test_each_process_loads_it_once(client: Any, explain: Explainer, whole: Any) -> None:
    found = cluster.explain(da.from_array(X, chunks=(3, D)), explain, target=Y, seed=3)
    assert_same(found.compute(), whole)
    assert_same((found * 2).compute(), whole * 2)

    def loads() -> tuple[int, int]:
        from explainers import cluster

        return cluster.loads, torch.get_num_threads()

    assert set(client.run(loads).values()) == {(1, 1)}


def test_a_worker_that_is_killed_loses_nothing(client: Any, whole: Any) -> None:
    slow = Explainer.compile(
        torch.nn.Sequential(torch.nn.Linear(D, 900), torch.nn.Tanh(), torch.nn.Linear(900, 3)),
        methods.ShapleySampling(600), inputs=X[:1],
    )  # fmt: skip
    want = slow(X, target=Y, seed=3)
    future = client.compute(cluster.explain(da.from_array(X, chunks=(2, D)), slow, target=Y, seed=3))
    pids = client.run(os.getpid)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(client.has_what().values()):
        time.sleep(0.02)
    assert not future.done()
    os.kill(next(iter(pids.values())), signal.SIGKILL)
    assert_same(future.result(timeout=300), want)


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_stores_of_any_chunks(chunk: Any, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    lazy = da.from_array(X, chunks=(chunk, 2))
    for rows in CHUNKS:
        cluster.to_zarr(lazy.rechunk({0: rows}), tmp_path / "a.zarr", overwrite=True)
        np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "a.zarr"), mode="r")[:], X)
    with pytest.raises(InputError, match="exists"):
        cluster.to_zarr(lazy, tmp_path / "a.zarr")


def test_from_zarr_to_zarr(client: Any, explain: Explainer, whole: Any, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    store = zarr.create_array(str(tmp_path / "x.zarr"), shape=X.shape, dtype=X.dtype, chunks=(8, 3))
    store[:] = X
    found = cluster.explain(store, explain, target=Y, seed=3, block=10)
    cluster.to_zarr(found, tmp_path / "scores.zarr")
    assert_same(zarr.open_array(str(tmp_path / "scores.zarr"), mode="r")[:], whole)


@pytest.mark.parametrize("target", [Y[:5], 7, None])
def test_wrong_targets(target: Any, explain: Explainer) -> None:
    with pytest.raises(ExplainersError):
        cluster.explain(da.from_array(X, chunks=(9, D)), explain, target=target).compute(scheduler="threads")


def test_wrong_inputs(explain: Explainer) -> None:
    with pytest.raises(InputError, match="has the shape"):
        cluster.explain(da.from_array(X[:, :3], chunks=(9, 3)), explain, target=0)
    with pytest.raises(InputError, match="takes 1 inputs"):
        cluster.explain((da.from_array(X), da.from_array(X)), explain, target=0)
    with pytest.raises(InputError, match="lazy array of dask"):
        explain(da.from_array(X), target=0)
    with pytest.raises(BaselineError):
        cluster.explain(da.from_array(X), explain, target=0, baseline=X[:3]).compute(scheduler="threads")


def test_a_hundred_thousand_blocks_are_a_few_layers_until_they_are_computed(explain: Explainer) -> None:
    lazy = da.zeros((10**8, D), chunks=(1000, D), dtype=np.float32)
    found = cluster.explain(lazy, explain, target=0)
    assert len(found.__dask_graph__().layers) < 6
    np.testing.assert_array_equal(found[5_000_000].compute(scheduler="threads"), np.zeros(D))


def test_results_have_the_dtype_of_the_input(explain: Explainer) -> None:
    found = cluster.explain(da.from_array(X.astype(np.float64), chunks=(20, D)), explain, target=0)
    assert found.dtype == np.float64
    assert found.compute(scheduler="threads").dtype == np.float64


def test_a_block_is_two_tasks(explain: Explainer) -> None:
    """One that makes the samples and one that explains them, and one of the explainer for all."""
    lazy = da.zeros((10_000, D), chunks=(10, D), dtype=np.float32)
    (found,) = dask.optimize(cluster.explain(lazy, explain, target=0))
    assert len(dict(found.__dask_graph__())) <= 2 * 1000 + 1


def test_samples_that_are_not_counted_are_told(explain: Explainer) -> None:
    lazy = da.from_array(X, chunks=(9, D))
    with pytest.raises(InputError, match="compute_chunk_sizes"):
        cluster.explain(lazy[lazy[:, 0] > 0], explain, target=0)
