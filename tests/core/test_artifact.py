"""Values as JSON and arrays; files as zips with a manifest."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, TensorSpec, methods
from explainers.errors import ArtifactError, BackendMissing
from explainers.file import container
from explainers.file.encoding import decode, decode_graph, encode, encode_graph
from explainers.graph import Attributes, Function, Graph, Node, Output, Role, Value
from explainers.methods.lrp import LRP, Composite, Epsilon, Gamma, Pass, ZBox
from explainers.spec import Signature

from .fake import FakeBackend

VALUES: list[Any] = [
    None, True, 0, -3, 2**70, 1.5, 0.1, 5e-324, math.inf, -math.inf, "", "Größe\n\0", (), (1,), [], [1, (2.5, None)],
    {}, {"a": 1, 2: (3,), (1, 2): "x"}, slice(1, None, 2), Role.LINEAR, TensorSpec((None, 3), "float64", "x"),
    Signature((TensorSpec((None,), name="a"), TensorSpec((None, 2), "int32", "b")), 1),
    *methods.METHODS.values(),
    methods.IntegratedGradients(7, "midpoint", 1e-3, 99), methods.Rise(axes=(0, 1)), methods.DeepLift("genomics", True),
    methods.Occlusion(window=((1, 2), (3,)), stride=1),
    LRP(Composite([(0, ZBox(-1, [1.0, 2.0])), ("a.*", Gamma(0.5)), (Role.UNIVARIATE, Pass())], Epsilon(1e-3))),
    LRP("epsilon_gamma_box", low=np.zeros((3, 1, 1)), high=1),
]  # fmt: skip


def through(value: Any) -> Any:
    arrays: dict[str, Any] = {}
    data = json.loads(container.to_json(encode(value, arrays, "value")))
    return decode(data, container.arrays(container.from_arrays(arrays)))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:60])
def test_values_come_back(value: Any) -> None:
    found = through(value)
    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(value)


def test_nan_and_numpy_numbers_come_back_as_python_s() -> None:
    assert math.isnan(through(math.nan))
    assert through([np.float32(0.1), np.int64(3), np.bool_(True)]) == [float(np.float32(0.1)), 3, True]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int32", "int8", "uint8", "bool", ">f8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_arrays_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    given = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    for layout in (given, given.T):
        found = through({"a": layout, "b": (References(layout),)})
        for array in (found["a"], found["b"][0].array):
            np.testing.assert_array_equal(array, layout)
            assert array.dtype == given.dtype.newbyteorder("=")


class Mine(methods.Gradient):
    """A user's own method."""


def a_rule(ops: Any, at: Any) -> Any:
    return [None]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda x: x, r"value is code \(.*<lambda>\)"),
        (methods.Perturbation(print, max), "value is code"),
        (LRP(Composite([("conv", a_rule)])), r"value\.composite\.entries\[0\]\[1\] is code \(a_rule\)"),
        (Mine(), "value is of type .*Mine, which cannot be saved"),
        ([1, {"k": object()}], r"value\[1\]\['k'\] is of type builtins.object"),
        (np.array([None]), "value is of type numpy.ndarray"),
        (b"bytes", "value is of type builtins.bytes"),
    ],
)
def test_what_is_code_or_unknown_is_refused(value: Any, said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        encode(value, {}, "value")


def test_a_graph_comes_back() -> None:
    x, y = Output((None, 4), "float32"), Output((None, None), "int64", plain=False)
    nodes = (
        Node("x", "input", Role.INPUT, outputs=(x,)),
        Node(
            "y", "op", Role.LINEAR, (Value("x"),), (y, x), "a.b", ("a", "a.b"), Function.DENSE, True,
            Attributes(weight=1), "f.py:3",
        ),
    )  # fmt: skip
    graph = Graph(nodes, (Value("x"),), (("logits", Value("y", 1)),))
    found = decode_graph(json.loads(container.to_json(encode_graph(graph))))
    assert found == graph
    assert found.nodes[1].attributes == Attributes(weight=1)


# --- files -----------------------------------------------------------------------------------

FILES = {"a.json": b"{}", "folder/b.bin": bytes(range(256))}


def test_a_file_is_a_stored_zip_with_checksums(tmp_path: Path) -> None:
    path = tmp_path / "x.explainer"
    container.write(path, {"backend": "none"}, FILES)
    data, files = container.read(path)
    assert files == FILES
    assert data["format"] == container.FORMAT
    assert container.read(path.read_bytes())[1] == container.read(io.BytesIO(path.read_bytes()))[1] == FILES
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[0] == "manifest.json"
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        container.write(tmp_path / name, {"backend": "none"}, FILES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("place", ["_write", "replace", "fsync"])
def test_a_failure_while_writing_leaves_what_was_there(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.explainer"
    container.write(path, {}, FILES)
    before = path.read_bytes()

    def fail(*args: Any) -> None:
        if place == "_write":
            args[0].write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(*((container, place) if place == "_write" else (os, place)), fail)
    with pytest.raises(OSError, match="no space left"):
        container.write(path, {}, {})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.explainer"]


def test_a_path_that_is_not_there_is_the_system_s_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Explainer.load(tmp_path / "none.explainer")
    with pytest.raises(FileNotFoundError):
        container.write(tmp_path / "no" / "folder", {}, {})


def test_a_callable_has_no_file_form(tmp_path: Path) -> None:
    explain = Explainer.compile(lambda x: x.sum(1), "feature_ablation", inputs=np.ones((1, 3)))
    with pytest.raises(ArtifactError, match="the model is a plain callable, which has no file form"):
        explain.save(tmp_path / "x")
    assert not os.listdir(tmp_path)


def test_predict_gives_the_output_in_packages() -> None:
    explain = Explainer.compile(lambda x: x * 2, "feature_ablation", inputs=np.ones((1, 3)))
    x = np.random.default_rng(0).normal(size=(7, 3))
    for size in (None, 1, 3, 100):
        np.testing.assert_array_equal(explain.predict(x, batch_size=size), x * 2)
    assert explain.predict(x[:0]).shape == (0, 3)
    x[4, 1] = np.nan
    with pytest.raises(ValueError, match="NaN in sample 4 of 7"):
        explain.predict(x)
    assert np.isnan(explain.predict(x, allow_nonfinite=True)[4, 1])


def test_a_framework_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from explainers import backend
    from explainers.explainer import saving

    x = Value("x")
    graph = Graph((Node("x", "input", Role.INPUT, outputs=(Output((None, 3), "float32"),)),), (x,), (("0", x),))
    spec = TensorSpec((None, 3), "float32", "x")
    options = {"wrt": None, "output": None, "baseline": 0.0, "dtype": None, "batch_size": None, "per_token": False}
    data = {
        "backend": "fake", "engine": "dynamic", "device": "", "method": encode(methods.Gradient(), {}, ""),
        "method_text": "Gradient()", "options": options, "batch_size": 1, "output": "0", "wrt": [["x", 0]],
        "signature": encode(Signature((spec,), 1), {}, ""), "specs": [encode(spec, {}, "")], "places": [0],
        "attributed": ["x"], "parts": {"explain": [], "predict": []}, "coverage": [], "versions": {},
    }  # fmt: skip
    buffer = io.BytesIO()
    container.write(buffer, data, {container.GRAPH: container.to_json(encode_graph(graph))})
    missing = FakeBackend()
    monkeypatch.setattr(missing, "installed", lambda: False)
    monkeypatch.setattr(backend, "backends", lambda: {"fake": missing})
    monkeypatch.setattr(saving, "backends", lambda: {"fake": missing})
    with pytest.raises(BackendMissing, match="needs fake, which is not installed"):
        Explainer.load(buffer.getvalue())
