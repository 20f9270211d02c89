"""Files written all or nothing: to links, devices and pipes, over files with permissions, on full disks."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, plots
from explainers.file import container, writing

X = np.array([[1.0, 2.0], [3.0, 4.0]])


def linear(x: np.ndarray) -> np.ndarray:
    return x @ np.array([[1.0, 2.0], [3.0, 4.0]])


def explainer(path: Any) -> None:
    container.write(path, {"some": "data"}, {"a.bin": b"x" * 100})


def page(path: Any) -> None:
    plots.page(Explainer.compile(linear, "feature_ablation").explanation(X, target=0), path, kind="bars")


def plain(path: Any) -> None:
    writing.text(path, "all of it")


WRITERS = (explainer, page, plain)  # what the library writes by itself
Writer = Callable[[Any], None]


@pytest.fixture(params=WRITERS, ids=lambda writer: writer.__name__)
def write(request: pytest.FixtureRequest) -> Writer:
    if request.param is page:
        pytest.importorskip("matplotlib")
    return request.param


def only(folder: Path, *names: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_a_link_stays_and_what_it_points_to_is_replaced(write: Writer, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real").write_bytes(b"old")
    for name, target in (("link", "far/real"), ("chain", "link"), ("dangling", "far/new")):
        (tmp_path / name).symlink_to(target)
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert os.readlink(tmp_path / name) == target
        assert (tmp_path / name).stat().st_size > 3
    only(tmp_path / "far", "real", "new")
    only(tmp_path, "far", "link", "chain", "dangling")


def test_permissions_stay(write: Writer, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for mode in (0o600, 0o640, 0o664, 0o755):
        path.write_bytes(b"old")
        path.chmod(mode)
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == mode
    mask = os.umask(0o027)
    try:
        write(tmp_path / "new")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_device_is_written_to_and_stays(write: Writer) -> None:
    before = os.stat("/dev/null")
    write("/dev/null")
    after = os.stat("/dev/null")
    assert stat.S_ISCHR(after.st_mode)
    assert (after.st_ino, after.st_rdev) == (before.st_ino, before.st_rdev)
    assert not list(Path("/dev").glob(".null*"))
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError, match="No space"):
            write("/dev/full")
        assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_pipe_gets_all_of_it(write: Writer, tmp_path: Path) -> None:
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(10)
    write(file)
    assert got == [file.read_bytes()]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_cannot_be_written_is_told_and_leaves_what_was_there(write: Writer, tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    (tmp_path / "loop").symlink_to("loop")
    for name, words in (("folder", "is a folder"), ("no/file", "does not exist"), ("loop", "leads back to itself")):
        with pytest.raises(OSError, match=words):
            write(tmp_path / name)
    only(tmp_path, "folder", "loop")


def test_a_file_that_may_not_be_written_to_stays(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"years of work")
    path.chmod(0o400)
    real = os.access  # tests may run as root, who may do all
    monkeypatch.setattr(os, "access", lambda p, mode: real(p, mode) and not (mode & os.W_OK and Path(p) == path))
    with pytest.raises(PermissionError, match="is not writable"):
        write(path)
    assert path.read_bytes() == b"years of work"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "^C"])
@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_full_disk_or_an_interruption_leaves_the_old_file(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, at: str
) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"years of work")

    def fails(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(os, at, fails)
    with pytest.raises(type(error)):
        write(path)
    monkeypatch.undo()
    only(tmp_path, "kept")
    assert path.read_bytes() == b"years of work"


def test_what_fails_while_it_is_made_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"years of work")

    def fail() -> None:
        with writing.replacing(path) as stream:
            stream.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    only(tmp_path, "kept")
    assert path.read_bytes() == b"years of work"
