"""Files with programs that were compiled when they were saved: once loaded, nothing is compiled."""

from __future__ import annotations

import copy
import io
import json
import os
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer
from explainers.errors import ArtifactError, InputError

from .artifacts import MODELS, importable, members, rewritten
from .child import run
from .subjects import CASE_NAMES, METHODS, SMALLEST, subject

SIZES = (1, 2, 3, 5, 8, 33)
MLP = SMALLEST["torch"]


def saved(label: str, method: Any, aot: bool = True, **options: Any) -> tuple[Explainer, bytes, list[np.ndarray]]:
    """An explainer of engine inductor, its file, and as many samples as the largest size."""
    found = subject(label, "float32")
    arrays = found.case.draw(max(SIZES), "float32")
    options = {**found.case.options(), **options}
    explain = Explainer.compile(
        found.model, METHODS.get(method, method), inputs=found.case.given(arrays), engine="inductor", **options
    )
    buffer = io.BytesIO()
    explain.save(buffer, aot=aot)
    return explain, buffer.getvalue(), arrays


@pytest.fixture(scope="module")
def small() -> tuple[Explainer, bytes, list[np.ndarray]]:
    return saved(MLP, "saliency")


@pytest.fixture
def compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever compiles, fails."""
    import torch._inductor
    import torch._inductor.compile_fx

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("something was compiled")

    for name in ("compile", "aot_compile", "aoti_compile_and_package"):
        monkeypatch.setattr(torch._inductor, name, never)
    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", never)
    monkeypatch.setattr(torch, "compile", never)
    monkeypatch.setattr(torch.export, "load", never)


CHILD = """
    import json, sys, warnings
    warnings.simplefilter("error")
    import numpy as np
    from explainers import Explainer

    explain = Explainer.load("x.explainer")
    known = np.load("x.npz")
    close = []
    for size in json.loads(SIZES):
        found = explain(known["x"][:size], target="max")
        predicted = explain.predict(known["x"][:size])
        for name, array in (("want", found), ("predicted", predicted)):
            close.append(bool(np.allclose(array, known[f"{name}_{size}"], rtol=1e-5, atol=1e-6)))
    compiler = sorted({"torch._inductor.compile_fx", "torch._inductor.codecache"} & set(sys.modules))
    print(json.dumps([close, explain.stats.traces, explain.stats.compiled_shapes, explain.stats.padded_rows, compiler]))
"""


def test_another_process_compiles_nothing(small: tuple[Explainer, bytes, list[np.ndarray]], tmp_path: Path) -> None:
    _, content, (x,) = small
    reference = Explainer.compile(subject(MLP, "float32").model, "saliency", inputs=x)
    wanted = {f"want_{size}": reference(x[:size], target="max") for size in SIZES}
    wanted |= {f"predicted_{size}": reference.predict(x[:size]) for size in SIZES}
    np.savez(tmp_path / "x.npz", x=x, **wanted)
    (tmp_path / "x.explainer").write_bytes(content)
    script = CHILD.replace("SIZES", repr(json.dumps(SIZES)))
    folder = tmp_path / "own"
    folder.mkdir()
    close, traces, shapes, padded, compiler = run(
        script, tmp_path, blocked=MODELS, PYTHONPATH=importable(), TMPDIR=str(folder), PATH="", CXX="none"
    )
    assert close == [True] * (2 * len(SIZES))
    assert (traces, shapes, padded, compiler) == (0, [], 0, [])
    assert not os.listdir(folder)


def test_it_does_what_the_compiled_one_does(
    small: tuple[Explainer, bytes, list[np.ndarray]], compilers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    explain, content, (x,) = small
    other = Explainer.load(content)
    assert not os.listdir(tmp_path)
    whole = other(x, target=1)
    for size in SIZES:
        np.testing.assert_allclose(other(x[:size], target=1), whole[:size], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(other(x[:size], target=1, batch_size=2), whole[:size], rtol=1e-5, atol=1e-6)
    turned = torch.from_numpy(np.ascontiguousarray(x.T)).T
    np.testing.assert_array_equal(other(turned, target=1).numpy(), whole)
    assert other.predict(x[:0]).shape == explain.predict(x[:0]).shape
    assert other.warmup([1, 4]).stats.compiled_shapes == []
    assert other.stats.traces == 0
    again = copy.deepcopy(other)  # a file of what was loaded
    np.testing.assert_array_equal(again(x, target=1), whole)
    assert again.stats.compiled_shapes == []
    assert (str(other.graph), other.placeholders, other.coverage) == (
        str(explain.graph), explain.placeholders, explain.coverage
    )  # fmt: skip


def test_shapes_are_checked_before_the_library_reads(small: tuple[Explainer, bytes, list[np.ndarray]]) -> None:
    import torch

    other = Explainer.load(small[1])
    x, mask = torch.zeros(3, 5), torch.zeros(1, *other.output.shape[1:])
    kernel = other._plan.packages.kernel(None)  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"takes an argument of shape \(3, .*got \(1, "):
        kernel(x, mask, torch.tensor(0.0))
    with pytest.raises(InputError, match=r"takes an argument of shape \(3, 5\); got \(3, 4\)"):
        kernel(x[:, :4], mask, torch.tensor(0.0))


def test_threads_share_a_package(small: tuple[Explainer, bytes, list[np.ndarray]], compilers: None) -> None:
    _, content, (x,) = small
    other = Explainer.load(content)
    want = {size: other(x[:size], target=1) for size in SIZES}
    wrong = []

    def call(size: int) -> None:
        wrong.extend(1 for _ in range(50) if not np.array_equal(other(x[:size], target=1), want[size]))

    threads = [threading.Thread(target=call, args=(size,)) for size in SIZES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_members(small: tuple[Explainer, bytes, list[np.ndarray]]) -> None:
    files = members(small[1])
    own = {"explain.pt2", "predict.pt2", "weights.safetensors"}
    packages = {"explain.aot.pt2", "predict.aot.pt2", "aot.json"}
    assert set(files) == {"manifest.json", "graph.json", *own, *packages}
    assert set(json.loads(files["aot.json"])["needs"]) == {"torch", "system", "machine", "instructions", "gpu"}


def test_what_is_broken_is_refused_before_a_library_is_loaded(
    small: tuple[Explainer, bytes, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from explainers_torch import aot

    content = small[1]

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("a library was loaded")

    monkeypatch.setattr(aot, "Package", never)

    def added(name: str) -> Any:
        def change(_: Any, files: dict[str, bytes]) -> None:
            buffer = io.BytesIO(files["explain.aot.pt2"])
            with zipfile.ZipFile(buffer, "a") as archive:
                archive.writestr(name, b"x")
            files["explain.aot.pt2"] = buffer.getvalue()

        return change

    for name in ("explain/models/model.json", "explain/data/weights/w.pt", "../x.so", "explain/data/../../x.so",
                 "explain/data/aotinductor/model/../x.so", "/x.so"):  # fmt: skip
        with pytest.raises(ArtifactError, match=r"explain\.aot\.pt2 holds .*which packages of explainers do not have"):
            Explainer.load(rewritten(content, added(name)))
    for change, said in (
        (lambda _, f: f.update({"explain.aot.pt2": b"none"}), "is not a program"),
        (lambda _, f: f.pop("aot.json"), "it holds"),
        (lambda _, f: f.pop("predict.aot.pt2"), "it holds"),
        (lambda _, f: f.update({"aot.json": b"{}"}), "does not hold what"),
        (lambda _, f: f.update({"aot.json": b"{"}), "does not hold what"),
        (lambda data, _: data.update(engine="eager"), "it holds"),
    ):
        with pytest.raises(ArtifactError, match=said):
            Explainer.load(rewritten(content, change))


@pytest.mark.parametrize(("key", "value"), [("torch", "1.0"), ("machine", "pdp11"), ("instructions", ["more"])])
def test_on_another_machine_it_compiles_and_says_so(
    small: tuple[Explainer, bytes, list[np.ndarray]], key: str, value: Any
) -> None:
    _, content, (x,) = small

    def change(_: Any, files: dict[str, bytes]) -> None:
        told = json.loads(files["aot.json"])
        told["needs"][key] = value
        files["aot.json"] = json.dumps(told).encode()

    with pytest.warns(UserWarning, match=r"packages were compiled for .*(1\.0|pdp11|more).*compiled here instead"):
        other = Explainer.load(rewritten(content, change))
    if key == "torch":
        np.testing.assert_allclose(other(x[:4], target=1), Explainer.load(content)(x[:4], target=1), rtol=1e-5)
        assert other.stats.compiled_shapes == ["4 rows"]
        buffer = io.BytesIO()
        other.save(buffer)
        assert "aot.json" not in members(buffer.getvalue())


@pytest.mark.parametrize(("backend", "engine"), [("torch", "torchscript"), ("torch", "eager"), ("tensorflow", "xla")])
def test_other_engines_say_which_can(backend: str, engine: str, tmp_path: Path) -> None:
    found = subject(SMALLEST[backend], "float32")
    (x,) = found.case.draw(2, "float32")
    explain = Explainer.compile(found.model, "gradient", inputs=x, engine=engine)
    with pytest.raises(InputError, match=rf"'torch' with engine 'inductor' can; .*'{backend}' with engine '{engine}'"):
        explain.save(tmp_path / "x.explainer", aot=True)
    assert not os.listdir(tmp_path)


def test_a_machine_without_a_compiler_says_so(tmp_path: Path) -> None:
    from torch._inductor import config

    explain = saved(MLP, "saliency", aot=False)[0]
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ArtifactError, match=r"compiles with a C\+\+ compiler, and there is none.*Install g\+\+"),
    ):
        explain.save(tmp_path / "x.explainer", aot=True)
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_a_plain_file_is_compiled_where_it_is_loaded() -> None:
    explain, content, (x,) = saved(MLP, "gradient", aot=False)
    buffer = io.BytesIO()
    Explainer.load(content).save(buffer, aot=True)
    other = Explainer.load(buffer.getvalue())
    np.testing.assert_allclose(other(x, target=1), explain(x, target=1), rtol=1e-5, atol=1e-6)
    assert other.stats.compiled_shapes == []


def agrees(label: str, method: str, **options: Any) -> None:
    _, content, arrays = saved(label, method, **options)
    found = subject(label, "float32")
    other = Explainer.load(content)
    value = METHODS.get(method, method)
    given = {**found.case.options(), **options}
    reference = Explainer.compile(found.model, value, inputs=found.case.given(arrays), **given)
    sampled = {"seed": 7} if other.method.sampled else {}
    for size in (1, 2, 5):
        part = [array[:size] for array in arrays]
        a, b = (explain(*part, target="max", **sampled) for explain in (other, reference))
        for x, y in zip(*((r if isinstance(r, (tuple, list)) else [r]) for r in (a, b)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-5)
        np.testing.assert_allclose(other.predict(*part), reference.predict(*part), rtol=1e-4, atol=1e-5)
    assert other.stats.compiled_shapes == []
    assert other.stats.traces == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str) -> None:
    agrees(MLP, method)


@pytest.mark.slow
@pytest.mark.parametrize("label", [f"torch-{name}" for name in CASE_NAMES["torch"]])
@pytest.mark.parametrize("method", ["gradient", "deeplift-rescale"])
def test_every_architecture(label: str, method: str) -> None:
    agrees(label, method)
