"""Results on disk: killed at any file operation, they are the same after the next run; one process at a time."""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers.errors import InputError, RunInProgress
from explainers.store import Form, Store

N, BLOCK = 23, 5
VALUES = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
VALUES[5:10] = 0  # zarr does not write such a chunk
ERRORS = np.arange(N, dtype=np.float64)
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.link")


def run(path: Path, key: str = "key", zarr: bool = False, **options: Any) -> int:
    """Write the values; returns how many samples were there already."""
    with closing(Store(path, key, **options)) as store:
        return _written(store, path, zarr)


def _written(store: Store, path: Path, zarr: bool) -> int:
    if store.complete:
        return N
    first = store.done
    parts = {"a": VALUES, "b": ERRORS} if zarr or path.suffix == ".npz" else {"a": VALUES}
    forms = {
        name: Form(array.shape if not zarr else (0, *array.shape[1:]), array.dtype) for name, array in parts.items()
    }
    if zarr:
        store.begin_zarr(forms, BLOCK, {"seed": 3})
    else:
        store.allocate(forms)
    for start in range(first, N, BLOCK):
        store.write(start, {name: array[start : start + BLOCK] for name, array in parts.items()})
        store.keep()
    store.finish(attributes={} if zarr else None)
    return first


def content(path: Path) -> Any:
    """The bytes of a file, or of all files of a folder by name."""
    if path.is_file():
        return path.read_bytes()
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def in_a_child(work: Callable[[], Any], kill_at: int = 0) -> int:
    """The exit code of a child process that does the work; killed before file operation ``kill_at``, it is 9."""

    def killed() -> None:
        count = 0

        def hook(event: str, arguments: Any) -> None:
            nonlocal count
            if event in EVENTS and ".npz" not in str(event) and FOLDER in str(arguments[0]):
                count += 1
                if count == kill_at:
                    os._exit(9)

        sys.addaudithook(hook)
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    return process.exitcode or 0


FOLDER = "killed"
FORMS: dict[str, dict[str, Any]] = {
    "a.npy": {}, "a.npz": {}, "a.parquet": {}, "a.zarr": {"zarr": True}, "lists.parquet": {"zarr": True},
}  # fmt: skip
STEPS = {"a.npy": 1, "a.npz": 3, "a.parquet": 3, "a.zarr": 17, "lists.parquet": 17}  # zarr stores have many files


@pytest.mark.parametrize("name", FORMS)
def test_killed_at_any_file_operation_the_result_is_the_same(name: str, tmp_path: Path) -> None:
    options = FORMS[name]
    whole = tmp_path / "whole"
    whole.mkdir()
    assert in_a_child(lambda: run(whole / name, **options)) == 0
    kills = 0
    for kill in range(1, 10_000, STEPS[name]):
        folder = tmp_path / f"{FOLDER}{kill}"
        folder.mkdir()
        code = in_a_child(lambda place=folder / name: run(place, **options), kill)  # type: ignore[misc]
        if code == 0:
            break
        assert code == 9
        kills += 1
        ended = (folder / name).exists() and not list(folder.glob("*.part/finished"))  # it only had to clear up
        assert in_a_child(lambda place=folder / name: run(place, **options)) == ended  # type: ignore[misc]
        assert content(folder / name) == content(whole / name), kill
        assert os.listdir(folder) == [name]
    assert kills > 5


@pytest.mark.parametrize("name", ["a.npy", "a.zarr"])
def test_killed_while_another_output_is_replaced(name: str, tmp_path: Path) -> None:
    options = FORMS[name]
    for kill in range(1, 10_000, 2 * STEPS[name]):
        folder = tmp_path / f"{FOLDER}{kill}"
        folder.mkdir()
        assert in_a_child(lambda place=folder / name: run(place, "old", **options)) == 0  # type: ignore[misc]
        code = in_a_child(lambda place=folder / name: run(place, overwrite=True, **options), kill)  # type: ignore[misc]
        if code == 0:
            return
        assert code == 9
        assert in_a_child(lambda place=folder / name: run(place, overwrite=True, **options)) == 0  # type: ignore[misc]
        assert os.listdir(folder) == [name]
    raise AssertionError("it never ran through")


def test_a_run_continues_after_its_last_state(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.npy", "key")
    store.allocate({"a": Form(VALUES.shape, VALUES.dtype)})
    store.write(0, {"a": VALUES[:10]})
    store.keep()
    store.write(10, {"a": VALUES[10:15]})
    store.close()
    assert run(tmp_path / "a.npy") == 10
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), VALUES)


def test_another_run_and_an_output_that_exists_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.npy", "key")
    store.allocate({"a": Form(VALUES.shape, VALUES.dtype)})
    store.close()
    with pytest.raises(InputError, match="another run"):
        run(tmp_path / "a.npy", "other")
    assert run(tmp_path / "a.npy", "other", restart=True) == 0
    with pytest.raises(InputError, match="exists"):
        run(tmp_path / "a.npy")
    assert run(tmp_path / "a.npy", overwrite=True) == 0


def test_two_processes_do_not_write_the_same_output(tmp_path: Path) -> None:
    store = Store(tmp_path / "a.npy", "key")
    store.allocate({"a": Form(VALUES.shape, VALUES.dtype)})
    with pytest.raises(RunInProgress, match=f"process {os.getpid()} on "):
        Store(tmp_path / "a.npy", "key")
    assert in_a_child(lambda: run(tmp_path / "a.npy")) == 1
    assert (tmp_path / "a.npy.part" / "state.json").is_file()
    store.close()
    assert in_a_child(lambda: run(tmp_path / "a.npy")) == 0


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.parquet", "a.zarr"])
def test_a_full_disk_keeps_what_is_done(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, real, told = FORMS[name], os.fsync, set[bool]()
    assert run(tmp_path / f"whole{name}", **options) == 0
    for fail in range(1, 100):
        count = 0

        def full(handle: int, at: int = fail) -> None:
            nonlocal count
            count += 1
            if count == at:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", full)
        path = tmp_path / f"{fail}{name}"
        try:
            run(path, **options)
        except InputError as error:
            told.add("space" in str(error))
        else:
            break
        monkeypatch.setattr(os, "fsync", real)
        run(path, **options)
        assert content(path) == content(tmp_path / f"whole{name}")
    assert told == {True}


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not of a known kind"):
        Store(tmp_path / "a.csv", "key")
    with pytest.raises(InputError, match="no folder"):
        Store(tmp_path / "none" / "a.npy", "key")
    store = Store(tmp_path / "a.npy", "key")
    with pytest.raises(InputError, match=r"npz or \.zarr"):
        store.allocate({"a": Form((3, 2), "f4"), "b": Form((3, 2), "f4")})
    store = Store(tmp_path / "a.parquet", "key")
    with pytest.raises(InputError, match="one table"):
        store.allocate({"a": Form((3, 2, 2), "f4")})
