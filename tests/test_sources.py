"""Sources of samples: the same results from every kind, read ahead, in order, and errors that name their block."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, methods, sources
from explainers.errors import InputError, SourceError
from explainers.spec import Signature, TensorSpec

N, D = 203, 4
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
Y = np.random.default_rng(1).integers(3, size=N)
W = np.random.default_rng(2).normal(size=(D, 3))
ONE = Signature((TensorSpec((None, D), "float32", "x"),), 1)


def model(x: Any) -> Any:
    return np.tanh(np.asarray(x) @ W)


@pytest.fixture(scope="module")
def explain() -> Explainer:
    return Explainer.compile(model, methods.ShapleySampling(3), inputs={"x": TensorSpec((None, D), "float32")})


@pytest.fixture(scope="module")
def whole(explain: Explainer) -> Any:
    return explain(X, target=Y, seed=5)


def batches(size: int = 37) -> Iterator[tuple[Any, Any]]:
    for start in range(0, N, size):
        yield X[start : start + size], Y[start : start + size]


# --- kinds -------------------------------------------------------------------------------------------


def memmap(folder: Path) -> Any:
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r")


def hdf5(folder: Path) -> Any:
    h5py = pytest.importorskip("h5py")
    file = h5py.File(folder / "x.h5", "w")
    return file.create_dataset("x", data=X, chunks=(50, D))


def zarr(folder: Path) -> Any:
    store = pytest.importorskip("zarr").create_array(
        str(folder / "x.zarr"), shape=X.shape, dtype=X.dtype, chunks=(40, 2)
    )
    store[:] = X
    return store


def torch(folder: Path) -> Any:
    return pytest.importorskip("torch").from_numpy(X)


def tensorflow(folder: Path) -> Any:
    return pytest.importorskip("tensorflow").constant(X)


def dask(folder: Path) -> Any:
    return pytest.importorskip("dask.array").from_array(X, chunks=(61, 3))


def xarray(folder: Path) -> Any:
    return pytest.importorskip("xarray").DataArray(X)


def pandas(folder: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame(X)


def polars(folder: Path) -> Any:
    return pytest.importorskip("polars").DataFrame({"x": X})


ARRAYS: dict[str, Callable[[Path], Any]] = {
    kind.__name__: kind for kind in (memmap, hdf5, zarr, torch, tensorflow, dask, xarray, pandas)
}


@pytest.mark.parametrize(("kind", "block"), [("memmap", 1), *((kind, size) for kind in ARRAYS for size in (64, 1000))])
def test_arrays(kind: str, block: int, explain: Explainer, whole: Any, tmp_path: Path) -> None:
    found = list(explain.stream(ARRAYS[kind](tmp_path), target=Y, seed=5, block=block))
    assert [len(part) for part in found] == [min(block, N - start) for start in range(0, N, block)]
    np.testing.assert_array_equal(np.concatenate([np.asarray(part) for part in found]), whole)


def generator(folder: Path) -> Any:
    return ({"x": x, "y": y, "name": ["a"] * len(x)} for x, y in batches())


def loader(folder: Path) -> Any:
    torch = pytest.importorskip("torch")
    rows = [{"x": x, "y": y} for x, y in zip(torch.from_numpy(X), torch.from_numpy(Y), strict=True)]
    return torch.utils.data.DataLoader(rows, batch_size=29)


def tf_data(folder: Path) -> Any:
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices({"x": X, "y": Y}).batch(29)


def arrow(folder: Path) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(X.reshape(-1)), D)
    return pyarrow.table({"x": lists, "y": Y})


def arrow_batches(folder: Path) -> Any:
    return arrow(folder).to_batches(max_chunksize=31)


def parquet(folder: Path) -> Any:
    from pyarrow import parquet as files

    files.write_table(arrow(folder), folder / "x.parquet", row_group_size=50)
    return files.ParquetFile(folder / "x.parquet")


def datasets(folder: Path) -> Any:
    return pytest.importorskip("datasets").Dataset.from_dict({"x": X, "y": Y})


def by_name(folder: Path) -> Any:
    return {"x": X, "y": Y}


NAMED = {
    kind.__name__: kind
    for kind in (generator, loader, tf_data, arrow, arrow_batches, parquet, datasets, by_name)
}  # fmt: skip


@pytest.mark.parametrize("block", [64, 1000])
@pytest.mark.parametrize("kind", NAMED)
def test_inputs_and_targets_by_name(kind: str, block: int, explain: Explainer, whole: Any, tmp_path: Path) -> None:
    found = list(explain.stream(NAMED[kind](tmp_path), target="y", seed=5, block=block))
    np.testing.assert_array_equal(np.concatenate([np.asarray(part) for part in found]), whole)
    assert all(len(part) >= block for part in found[:-1])


def test_tuples_hold_the_inputs_first(explain: Explainer, whole: Any) -> None:
    found = list(explain.stream(batches(), target=lambda batch: batch[1], seed=5, block=50))
    np.testing.assert_array_equal(np.concatenate(found), whole)
    found = list(explain.stream(((y, x) for x, y in batches()), inputs=1, target=lambda batch: batch[0], seed=5))
    np.testing.assert_array_equal(np.concatenate(found), whole)


def test_a_column_of_a_table_is_the_target() -> None:
    frame = pytest.importorskip("pandas").DataFrame(X, columns=list("abcd"))
    explain = Explainer.compile(model, "feature_ablation", inputs=frame[:1])
    found = list(explain.stream(frame.assign(label=Y), target="label", block=50))
    assert list(found[0]) == list("abcd")
    np.testing.assert_allclose(np.concatenate(found), explain(frame, target=Y), rtol=1e-6)


@pytest.mark.parametrize("details", [False, True])
def test_several_inputs_and_baselines_for_each_sample(details: bool) -> None:
    explain = Explainer.compile(lambda a, b: model(a) * np.asarray(b), "feature_ablation", inputs=(X[:1], X[:1, :1]))
    baseline = References((X[::-1, None].copy(), X[:, None, :1] + 1), per_sample=True)
    want = explain(X, X[:, :1], target=1, baseline=baseline)
    found = list(explain.stream((X, X[:, :1]), target=1, baseline=baseline, block=60, details=details))
    parts = [part.attributions if details else part for part in found]
    for i in range(2):
        np.testing.assert_allclose(np.concatenate([part[i] for part in parts]), want[i], rtol=1e-6)


# --- ahead -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
def test_no_more_blocks_are_held_than_asked_for(ahead: int) -> None:
    """Of a source that yields single blocks, the finalizers of those that nobody holds any more have run."""
    import weakref

    alive, most = 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def source() -> Iterator[Any]:
        nonlocal alive, most
        for _ in range(30):
            block = X.copy()
            alive += 1
            most = max(most, alive)
            weakref.finalize(block, gone)
            yield block
            del block

    for block in sources.blocks(source(), N, ONE, ahead=ahead):
        time.sleep(0.002)
        del block
    assert most <= ahead + 2
    assert most >= min(ahead, 2) + 1


def test_reading_explaining_and_using_overlap() -> None:
    """Each of three takes its time in another thread: none of them waits for both others."""
    turns: list[int] = []

    def slow(x: Any) -> Any:
        turns.append(threading.get_ident())
        return model(x)

    explain = Explainer.compile(slow, "feature_ablation", inputs={"x": TensorSpec((None, D), "float32")})
    turns.clear()
    readers = set()

    def source() -> Iterator[Any]:
        for x, _ in batches():
            readers.add(threading.get_ident())
            yield x

    users = {threading.get_ident() for _ in explain.stream(source(), target=0, block=1)}
    assert len({*turns, *readers, *users}) == 3


def test_an_error_names_its_block_and_comes_after_the_results_before_it(explain: Explainer) -> None:
    def source() -> Iterator[Any]:
        yield X[:100]
        yield X[100:150]
        raise OSError("the disk is gone")

    stream = explain.stream(source(), target=0, block=50)
    assert [len(next(stream)), len(next(stream))] == [100, 50]
    with pytest.raises(SourceError, match=r"block 2 of the source, from sample 150 on: OSError: the disk is gone"):
        next(stream)


@pytest.mark.parametrize("known", [True, False])
def test_an_error_in_a_sample_has_its_number_in_the_source(known: bool, explain: Explainer) -> None:
    x = X.copy()
    x[120, 1] = np.nan
    stream = explain.stream(x if known else iter([x[:100], x[100:]]), target=0, block=50)
    assert len(next(stream)) > 0
    with pytest.raises(InputError, match="sample 120") as error:
        list(stream)
    assert "in the samples 100 to" in error.value.__notes__[0]


def test_closing_a_stream_ends_its_threads(explain: Explainer) -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield X

    before = threading.active_count()
    stream = explain.stream(endless(), target=0)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    for _ in range(100):
        if threading.active_count() <= before:
            break
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_memory_does_not_grow_with_the_source(explain: Explainer) -> None:
    def used(count: int) -> int:
        tracemalloc.start()
        for _ in explain.stream((X for _ in range(count)), target=0, block=N):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    used(3)
    assert used(60) < 1.5 * used(6)


def test_progress_counts_samples(explain: Explainer) -> None:
    told: list[tuple[int, int]] = []
    list(explain.stream(X, target=0, block=100, progress=lambda done, total: told.append((done, total))))
    assert told == [(100, N), (200, N), (N, N)]


# --- what is no source -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "arguments", "text"),
    [
        (3, {}, "a int is no source"),
        ("x.npy", {}, "a str is no source"),
        ((X, X[:5]), {}, "different numbers of samples"),
        (iter([[1.0, 2.0]]), {}, "is one sample of"),
        (iter(X), {}, "is one sample of"),
        ({"a": X, "b": X}, {}, r"no \['x'\]"),
        (batches(), {"target": "y"}, "names a part of a batch"),
        (X, {"block": 0}, "block must be"),
        (X, {"ahead": -1}, "ahead must be"),
    ],
    ids=["number", "path", "lengths", "list", "rows", "names", "label", "block", "ahead"],
)
def test_what_is_no_source(source: Any, arguments: dict[str, Any], text: str, explain: Explainer) -> None:
    with pytest.raises(InputError, match=text):
        list(explain.stream(source, **{"target": 0, **arguments}))


def test_draws_do_not_depend_on_blocks(explain: Explainer) -> None:
    seeds = np.arange(N)[::-1]
    want = explain(X, target=1, seed=seeds)
    np.testing.assert_array_equal(np.concatenate(list(explain.stream(X, target=1, seed=seeds, block=33))), want)
