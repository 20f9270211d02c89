"""``to_zarr`` and ``to_parquet`` on every backend: what a call returns, once, whatever interrupts it."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from explainers import Explainer, methods
from explainers.errors import InputError, NonFiniteError, RunInProgress, SourceError
from explainers.explainer import to_disk

from . import zoo

LABELS = ("torch-cnn_softmax", "tensorflow-cnn")
METHODS = {
    "ig": methods.IntegratedGradients(steps=4), "deeplift": methods.DeepLift(),
    "gradient_shap": methods.GradientShap(samples=4), "occlusion": methods.Occlusion((1, 3, 3), (1, 3, 3)),
}  # fmt: skip
SAMPLES, BLOCK = 23, 5


@functools.cache
def samples(label: str) -> np.ndarray:
    x = zoo.data(label).held_out[:SAMPLES].astype(np.float32)
    return x[:, :1] if label.startswith("torch") else x[..., :1]


@functools.cache
def explainer(label: str, name: str) -> Explainer:
    method = METHODS[name]
    if name == "occlusion" and label.startswith("tensorflow"):
        method = methods.Occlusion((3, 3, 1), (3, 3, 1))
    return Explainer.compile(zoo.network(label, "float32", 1), method, inputs=samples(label))


def tree(path: Path) -> dict[str, str]:
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*")) if file.is_file()
    }  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("label", LABELS)
def test_a_group_holds_what_a_call_returns(label: str, name: str, tmp_path: Path) -> None:
    x, explain = samples(label), explainer(label, name)
    target = zoo.outputs(label, x).argmax(axis=1)
    path = explain.to_zarr(x, tmp_path / "a.zarr", target=target, seed=4, block=BLOCK, attributes={"run": 7})
    found = zarr.open_group(str(path), mode="r")
    want = explain.explanation(x, target=target, seed=4)
    arrays = {
        "attributions": want.attributions, "outputs": want.outputs, "baseline_outputs": want.baseline_outputs,
        "target": want.target, "completeness_gap": want.completeness_gap, "standard_error": want.standard_error,
    }  # fmt: skip
    wanted = {key: np.asarray(array) for key, array in arrays.items() if array is not None}
    assert set(found.array_keys()) == set(wanted)
    for key, array in wanted.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_allclose(found[key][:], array, rtol=1e-4, atol=1e-6)
    assert found["attributions"].chunks[0] == BLOCK
    assert found.attrs["method"] == str(explain.method)
    assert found.attrs["run"] == 7
    assert os.listdir(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize("label", LABELS)
def test_a_parquet_file_holds_lists(label: str, tmp_path: Path) -> None:
    from pyarrow import parquet

    x, explain = samples(label), explainer(label, "ig")
    path = explain.to_parquet(x, tmp_path / "a.parquet", target=1, block=BLOCK)
    table = parquet.read_table(path)
    want = explain.explanation(x, target=1)
    found = np.stack(table.column("attributions").to_numpy()).reshape(x.shape)
    np.testing.assert_allclose(found, np.asarray(want.attributions), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(table.column("completeness_gap").to_numpy(), want.completeness_gap, atol=1e-5)
    assert table.schema.metadata[b"shape of attributions"] == str(list(x.shape[1:])).encode()
    # and is a source itself
    again = np.concatenate([np.asarray(p) for p in explain.stream(_images(x, tmp_path), target=1, block=BLOCK)])
    np.testing.assert_allclose(again.reshape(x.shape), np.asarray(want.attributions), rtol=1e-4, atol=1e-7)


def _images(x: np.ndarray, folder: Path) -> Iterator[Any]:
    """A reader of images as Arrow has them, which are lists, given their shape again."""
    import pyarrow
    from pyarrow import parquet

    flat = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(x.reshape(-1)), int(np.prod(x.shape[1:])))
    parquet.write_table(pyarrow.table({"x": flat}), folder / "x.parquet", row_group_size=4)
    for batch in parquet.ParquetFile(folder / "x.parquet").iter_batches(6):
        yield np.stack(batch.column("x").to_numpy(zero_copy_only=False)).reshape(-1, *x.shape[1:])


class Interrupted(Exception):
    pass


def interrupted(x: np.ndarray, after: int, size: int = 4) -> Iterator[np.ndarray]:
    for number, start in enumerate(range(0, len(x), size)):
        if number == after:
            raise Interrupted("somebody pulled the plug")
        yield x[start : start + size]


@pytest.mark.parametrize("kind", ["array", "batches"])
def test_an_interrupted_run_continues_and_is_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = LABELS[0]
    x, explain = samples(label), explainer(label, "gradient_shap")
    monkeypatch.setattr(to_disk, "INTERVAL", 0.0)
    arguments: dict[str, Any] = {"target": 2, "seed": 1, "block": BLOCK}
    whole = explain.to_zarr(interrupted(x, -1) if kind == "batches" else x, tmp_path / "whole.zarr", **arguments)
    for after in (0, 2, 3, 5) if kind == "batches" else (0, 2, 4):  # the first samples tell the model
        path = tmp_path / f"{after}.zarr"
        if kind == "batches":
            with pytest.raises(SourceError, match="pulled the plug"):
                explain.to_zarr(interrupted(x, after), path, **arguments)
            source: Any = interrupted(x, -1)
        else:
            broken = x.copy()
            broken[after * BLOCK :, ..., -1] = np.nan
            with pytest.raises((NonFiniteError, InputError)):
                explain.to_zarr(broken, path, **arguments)
            source = x
        assert not path.exists()
        rows = explain.stats.rows
        explain.to_zarr(source, path, **arguments)
        assert tree(path) == tree(whole)
        assert explain.stats.rows - rows < SAMPLES * 4 * 3
    assert not list(tmp_path.glob("*.part"))


def test_another_method_does_not_continue_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = LABELS[0]
    x = samples(label)
    monkeypatch.setattr(to_disk, "INTERVAL", 0.0)
    with pytest.raises(SourceError):
        explainer(label, "ig").to_zarr(interrupted(x, 3), tmp_path / "a.zarr", target=0, block=BLOCK)
    for explain, arguments in (
        (explainer(label, "deeplift"), {"target": 0, "block": BLOCK}),
        (explainer(label, "ig"), {"target": 1, "block": BLOCK}),
        (explainer(label, "ig"), {"target": 0, "block": BLOCK + 1}),
    ):
        with pytest.raises(InputError, match="another run"):
            explain.to_zarr(interrupted(x, -1), tmp_path / "a.zarr", **arguments)  # type: ignore[arg-type]
    explainer(label, "deeplift").to_zarr(x, tmp_path / "a.zarr", target=0, restart=True)
    with pytest.raises(InputError, match="exists"):
        explainer(label, "deeplift").to_zarr(x, tmp_path / "a.zarr", target=0)


def test_another_model_does_not_continue_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = LABELS[0]
    x = samples(label)
    monkeypatch.setattr(to_disk, "INTERVAL", 0.0)
    broken = x.copy()
    broken[12:] = np.nan
    with pytest.raises(InputError):
        explainer(label, "ig").to_zarr(broken, tmp_path / "a.zarr", target=0, block=BLOCK)
    other = Explainer.compile(zoo.network(label, "float32", 2), METHODS["ig"], inputs=x)
    with pytest.raises(InputError, match="another model"):
        other.to_zarr(x, tmp_path / "a.zarr", target=0, block=BLOCK)


def test_two_runs_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = LABELS[0]
    x, explain = samples(label), explainer(label, "ig")

    def source() -> Iterator[np.ndarray]:
        yield x[:10]
        with pytest.raises(RunInProgress, match="is being written by process"):
            explain.to_zarr(x, tmp_path / "a.zarr", target=0)
        yield x[10:]

    explain.to_zarr(source(), tmp_path / "a.zarr", target=0, block=BLOCK, ahead=0)
    assert zarr.open_group(str(tmp_path / "a.zarr"), mode="r")["attributions"].shape == x.shape


def test_what_a_store_does_not_hold(tmp_path: Path) -> None:
    x, explain = samples(LABELS[0]), explainer(LABELS[0], "occlusion")
    with pytest.raises(InputError, match=r"must be called ….zarr"):
        explain.to_zarr(x, tmp_path / "a.npy", target=0)
    with pytest.raises(InputError, match="axes before the samples"):
        explain.to_zarr(x, tmp_path / "a.zarr", target="all")
    with pytest.raises(InputError, match="no samples"):
        explain.to_zarr(iter([]), tmp_path / "a.zarr", target=0)
    assert not list(tmp_path.glob("a*"))


CODE = """
import sys
import numpy as np, torch
from explainers import Explainer, methods
from explainers.explainer import to_disk
to_disk.INTERVAL = 0.0
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3))
x = np.random.default_rng(0).normal(size=(3000, 64)).astype("float32")
x[500:600] = 0
explain = Explainer.compile(model, methods.GradientShap(samples=20), inputs=x[:1])
print("ready", flush=True)
explain.to_zarr(x, sys.argv[1], target=1, seed=2, block=50, batch_size=1000)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_thirty_times_at_random_moments(tmp_path: Path) -> None:
    def start(path: Path) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", CODE, str(path)], stdout=subprocess.PIPE, text=True)

    with start(tmp_path / "whole.zarr") as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        assert process.wait() == 0
        seconds = time.monotonic() - began
    kills, draw = 0, random.Random(0)
    for number in range(60):
        path = tmp_path / f"{number % 3}.zarr"
        if path.exists():
            assert tree(path) == tree(tmp_path / "whole.zarr")
            path.rename(tmp_path / f"done{number}.zarr")
        with start(path) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(draw.uniform(0, 1.1 * seconds))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        if kills == 30:
            break
    assert kills == 30
    for number in range(3):
        path = tmp_path / f"{number}.zarr"
        if not path.exists():
            with start(path) as process:
                assert process.wait() == 0
        assert tree(path) == tree(tmp_path / "whole.zarr")


@pytest.mark.parametrize("ahead", [0, 2])
def test_the_callers_precision_does_not_reach_a_stream(ahead: int) -> None:
    import torch

    x, explain = samples(LABELS[0]), explainer(LABELS[0], "ig")
    want = np.asarray(explain(x, target=1))
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        found = np.concatenate([np.asarray(part) for part in explain.stream(x, target=1, block=BLOCK, ahead=ahead)])
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-7)


def test_what_was_done_before_an_error_is_kept(tmp_path: Path) -> None:
    x, explain = samples(LABELS[0]), explainer(LABELS[0], "ig")
    with pytest.raises(SourceError):
        explain.to_zarr(interrupted(x, 4, BLOCK), tmp_path / "a.zarr", target=0, block=BLOCK)
    (state,) = tmp_path.glob("*.part/state.json")
    assert f'"done": {4 * BLOCK}' in state.read_text()


def test_another_baseline_or_other_groups_do_not_continue_it(tmp_path: Path) -> None:
    x = samples(LABELS[0])
    network = zoo.network(LABELS[0], "float32", 1)
    groups = np.arange(x[0].size).reshape(x[0].shape)
    pairs = [
        [(METHODS["ig"], {"baseline": value}) for value in (0.0, 0.25)],
        [(methods.FeatureAblation(ids), {}) for ids in (groups, np.where(groups == 40, 41, groups) // 2)],
    ]
    for number, pair in enumerate(pairs):
        one, other = (Explainer.compile(network, method, inputs=x, **options) for method, options in pair)
        path = tmp_path / f"{number}.zarr"
        with pytest.raises(SourceError):
            one.to_zarr(interrupted(x, 3), path, target=0, block=BLOCK)
        with pytest.raises(InputError, match="another run"):
            other.to_zarr(interrupted(x, -1), path, target=0, block=BLOCK)


def test_another_model_is_told_from_batches_too(tmp_path: Path) -> None:
    x = samples(LABELS[0])
    with pytest.raises(SourceError):
        explainer(LABELS[0], "ig").to_zarr(interrupted(x, 3), tmp_path / "a.zarr", target=0, block=BLOCK)
    other = Explainer.compile(zoo.network(LABELS[0], "float32", 2), METHODS["ig"], inputs=x)
    with pytest.raises(InputError, match="another model"):
        other.to_zarr(interrupted(x, -1), tmp_path / "a.zarr", target=0, block=BLOCK)


def test_targets_and_baselines_of_the_framework_and_lists(tmp_path: Path) -> None:
    import torch

    x, explain = samples(LABELS[0]), explainer(LABELS[0], "ig")
    target = [i % 3 for i in range(SAMPLES)]
    baseline = torch.from_numpy(x[::-1].copy())
    want = np.asarray(explain(x, target=target, baseline=baseline))
    for given in (target, torch.tensor(target)):
        found = explain.stream(x, target=given, baseline=baseline, block=BLOCK)
        np.testing.assert_allclose(np.concatenate([np.asarray(part) for part in found]), want, rtol=1e-4, atol=1e-7)
