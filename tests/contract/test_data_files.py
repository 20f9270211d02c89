"""Files of ``program="data"``: nothing of them is executed, whatever they hold."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from explainers import Explainer
from explainers.backend import named
from explainers.errors import ArtifactError, InputError
from explainers.file import container

from .artifacts import members, rewritten
from .subjects import SMALLEST, subject
from .test_hostile_files import ENTRIES, paths

MAIN = ("torch", "tensorflow")
PROGRAM = "program.json"


def compiled(backend: str, method: Any = "deeplift", **options: Any) -> tuple[Explainer, np.ndarray]:
    found = subject(SMALLEST[backend], "float32")
    (x,) = found.case.draw(4, "float32")
    return Explainer.compile(found.model, method, inputs=x, **options), x


def saved(explain: Explainer, **options: Any) -> bytes:
    buffer = io.BytesIO()
    explain.save(buffer, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    return {backend: saved(compiled(backend)[0], program="data") for backend in MAIN}


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    """The file with another ``program.json``."""

    def replace(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        told = json.loads(files[PROGRAM])
        change(told)
        files[PROGRAM] = json.dumps(told).encode()

    return rewritten(content, replace)


def refused(content: bytes, said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        Explainer.load(content, program="data")


# --- nothing is executed ---------------------------------------------------------------------


@pytest.mark.parametrize("backend", MAIN)
def test_only_data_is_read(backend: str, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """No reader that could execute something is called, and only files of these kinds are there."""
    import pickle

    import tensorflow as tf
    import torch

    def forbidden(*args: Any, **options: Any) -> Any:
        raise AssertionError("a reader of code was called")

    for owner, name in (
        (torch, "load"), (torch.jit, "load"), (torch.export, "load"), (pickle, "load"), (pickle, "loads"),
        (pickle, "Unpickler"), (tf.saved_model, "load"), (tf, "py_function"), (tf, "numpy_function"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, forbidden)
    loaded = Explainer.load(contents[backend], program="data")
    explain, x = compiled(backend)
    assert np.array_equal(loaded(x, target=1, baseline=0), explain(x, target=1, baseline=0))
    assert {name.partition(".")[2] for name in members(contents[backend])} <= {"json", "safetensors", "pb"}


TORCH = [
    "aten.from_file.default", "aten.add_.Tensor", "aten.relu_.default", "aten.add.out", "aten.empty.memory_format",
    "aten.new_empty.default", "aten.empty_like.default", "aten.set_.source_Tensor", "aten.resize_.default",
    "aten._print.default", "aten._sparse_coo_tensor_unsafe.default", "aten.__class__.default", "aten.add.__class__",
    "aten.add", "explainers_own.call.default", "prim.device.default", "profiler._record_function_enter_new.default",
    "os.system", "builtins.eval", "size.__import__", "size.eval", "operator.attrgetter", "aten.mul.Tensor ", "", 7,
    None, ["aten.mul.Tensor"],
]  # fmt: skip


@pytest.mark.parametrize("name", TORCH, ids=str)
def test_torch_operations_that_do_more_than_compute_are_refused(name: Any, contents: dict[str, bytes]) -> None:
    def change(told: Any) -> None:
        told["programs"]["explain"]["nodes"][0][0] = name

    refused(changed(contents["torch"], change), "no operation|for an operation")


ARGUMENTS: list[Any] = [
    {"node": 10**6}, {"node": -1}, {"node": 0}, {"node": True}, {"argument": 99}, {"tensor": "t999"}, {"tensor": 0},
    {"dtype": "load"}, {"dtype": "float33"}, {"dtype": "nn"}, {"layout": "float32"}, {"device": "cuda:7"},
    {"float": "x"}, {"complex": [1]}, {"code": "import os"}, {"node": 0, "tensor": "t0"}, {}, [[[[[[1]]]]]], 2**70, 1.5,
    {"tuple": {"tuple": [1]}}, {"tuple": "abc"},
]  # fmt: skip


@pytest.mark.parametrize("argument", ARGUMENTS, ids=str)
def test_arguments_of_unknown_kinds_are_refused(argument: Any, contents: dict[str, bytes]) -> None:
    def change(told: Any) -> None:
        told["programs"]["explain"]["nodes"][0][1][0] = argument

    refused(changed(contents["torch"], change), f"{PROGRAM}.*(what this version expects|of no kind)|cannot load")


@pytest.mark.parametrize("engine", ["torchscript", "eager"])
@pytest.mark.parametrize("place", ["argument", "keyword", "value", "text"])
def test_text_in_a_program_never_becomes_code(place: str, engine: str, tmp_path: Path) -> None:
    """A kernel's source is written from what was read; a text of the file is part of it as a literal only."""
    mark = tmp_path / "was-here"
    hostile = f"none'); __import__('os').mkdir('{mark}'); f('"

    def change(told: Any) -> None:
        nodes = told["programs"]["predict"]["nodes"]
        if place == "argument":
            nodes[0][1][0] = hostile
        elif place == "keyword":
            nodes[0][2][hostile] = 1
        elif place == "value":
            nodes[0][2]["beta"] = hostile
        else:
            nodes.append(["aten.gelu.default", [{"argument": 0}], {"approximate": hostile}])

    explain, x = compiled("torch", engine=engine)
    errors: list[type[BaseException]] = []
    try:
        Explainer.load(changed(saved(explain, program="data"), change), program="data").predict(x)
    except Exception as error:  # of whatever checks the types: TorchScript at load, torch at the call
        errors.append(type(error))
    assert not {SyntaxError, NameError} & {*errors}  # the kernel's source was as it should be
    assert not mark.exists()


TENSORFLOW = ["WriteFile", "ReadFile", "MatchingFiles", "PyFunc", "EagerPyFunc", "ImmutableConst", "Abort", "PrintV2",
              "VarHandleOp", "AssignVariableOp", "SaveV2", "RestoreV2", "RemoteCall", "Empty", "InplaceUpdate",
              "LookupTableFindV2", "NoSuchOperation", "Send", "_Recv", "TPUReplicate"]  # fmt: skip


@pytest.mark.parametrize("inside", [False, True], ids=["graph", "function"])
@pytest.mark.parametrize("name", TENSORFLOW)
def test_tensorflow_operations_that_do_more_than_compute_are_refused(
    name: str, inside: bool, contents: dict[str, bytes]
) -> None:
    from tensorflow.core.framework import graph_pb2

    def change(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        graph = graph_pb2.GraphDef()
        graph.ParseFromString(files["explain.pb"])
        holder = graph.library.function.add().node_def if inside else graph.node
        holder.add(name="extra", op=name)
        files["explain.pb"] = graph.SerializeToString()

    refused(rewritten(contents["tensorflow"], change), "holds functions" if inside else "nothing but compute")


def test_graphs_call_no_functions(contents: dict[str, bytes]) -> None:
    """Neither their own nor those that the process has, which may be anything."""
    from tensorflow.core.framework import graph_pb2

    def call(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        graph = graph_pb2.GraphDef()
        graph.ParseFromString(files["explain.pb"])
        graph.node.add(name="extra", op="PartitionedCall").attr["f"].func.name = "__inference_run_1"
        files["explain.pb"] = graph.SerializeToString()

    refused(rewritten(contents["tensorflow"], call), "nothing but compute")


def test_constants_are_as_large_as_they_are_written(contents: dict[str, bytes]) -> None:
    from tensorflow.core.framework import graph_pb2

    def change(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        graph = graph_pb2.GraphDef()
        graph.ParseFromString(files["explain.pb"])
        node = graph.node.add(name="extra", op="Const")
        node.attr["dtype"].type = 1
        node.attr["value"].tensor.dtype = 1
        node.attr["value"].tensor.tensor_shape.dim.add(size=2**40)
        node.attr["value"].tensor.float_val.append(1)
        files["explain.pb"] = graph.SerializeToString()

    refused(rewritten(contents["tensorflow"], change), "constant")


# --- what may be loaded ----------------------------------------------------------------------


@pytest.mark.parametrize("backend", MAIN)
def test_code_is_refused_before_a_framework_sees_it(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    explain, _ = compiled(backend)
    code, data = saved(explain), saved(explain, program="data")
    assert container.read_manifest(code).program == "code"
    assert container.read_manifest(data).program == "data"

    def reached(*args: Any, **options: Any) -> Any:
        raise AssertionError("the framework was asked to load it")

    monkeypatch.setattr(type(named(backend)), "load", reached)
    refused(code, "holds its programs as code, and only data may be loaded")
    with pytest.raises(ArtifactError, match="as data, and only code"):
        Explainer.load(data, program="code")
    with pytest.raises(InputError, match="'code' or 'data'; got 'date'"):
        Explainer.load(data, program="date")


@pytest.mark.parametrize("backend", MAIN)
@pytest.mark.parametrize(("holds", "says"), [("code", "data"), ("data", "code")])
def test_a_manifest_that_lies_about_its_programs_is_refused(backend: str, holds: str, says: str) -> None:
    def lie(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        manifest["program"] = says

    content = rewritten(saved(compiled(backend)[0], program=holds), lie)
    with pytest.raises(ArtifactError, match="it holds"):
        Explainer.load(content, program=says)


@pytest.mark.parametrize("backend", MAIN)
def test_the_form_stays_when_a_loaded_explainer_is_saved(backend: str, contents: dict[str, bytes]) -> None:
    loaded = Explainer.load(contents[backend])
    assert container.read_manifest(saved(loaded)).program == "data"
    with pytest.raises(InputError, match="loaded from a file that holds its programs as data"):
        loaded.save(io.BytesIO(), program="code")
    with pytest.raises(InputError, match="as code"):
        Explainer.load(saved(compiled(backend)[0])).save(io.BytesIO(), program="data")


def test_what_cannot_be_data_says_so() -> None:
    import torch

    explain, _ = compiled("torch", engine="inductor")
    with pytest.raises(InputError, match="machine code"):
        explain.save(io.BytesIO(), program="data", aot=True)
    with pytest.raises(InputError, match="'code' or 'data'; got 'json'"):
        explain.save(io.BytesIO(), program="json")
    library = torch.library.Library("explainers_test_data", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")
    torch.library.register_fake("explainers_test_data::twice", torch.empty_like, lib=library)

    class Custom(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.explainers_test_data.twice(x).sum(1, keepdim=True)

    custom = Explainer.compile(Custom(), "occlusion", inputs=np.ones((2, 3), "float32"))
    with pytest.raises(ArtifactError, match=r"explainers_test_data\.twice.*program='code'"):
        custom.save(io.BytesIO(), program="data")


# --- mutations -------------------------------------------------------------------------------


@st.composite
def mutations(draw: Any, content: bytes) -> bytes:
    """The file with other entries in its program, and checksums that fit."""

    def mutate(told: Any) -> None:
        known = [*paths(told)]
        for _ in range(draw(st.integers(1, 3))):
            path = draw(st.sampled_from(known))
            parent = told
            try:
                for step in path[:-1]:
                    parent = parent[step]
                if draw(st.booleans()):
                    parent[path[-1]] = draw(ENTRIES)
                else:
                    del parent[path[-1]]
            except (LookupError, TypeError):  # an earlier change took it away
                continue

    return changed(content, mutate)


def fuzz(content: bytes, count: int) -> None:
    outcomes = {"refused": 0, "loaded": 0}

    @settings(max_examples=count, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(mutations(content))
    def check(mutated: bytes) -> None:
        try:
            Explainer.load(mutated, program="data")
        except ArtifactError:
            outcomes["refused"] += 1
        else:
            outcomes["loaded"] += 1

    check()
    assert outcomes["refused"] > count / 2 > outcomes["loaded"] > 0


@pytest.mark.parametrize(("backend", "count"), [("torch", 150), ("tensorflow", 30)])
def test_mutated_programs_are_refused_or_load(backend: str, count: int, contents: dict[str, bytes]) -> None:
    fuzz(contents[backend], count)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "count"), [("torch", 5000), ("tensorflow", 1000)])
def test_thousands_of_mutated_programs(backend: str, count: int, contents: dict[str, bytes]) -> None:
    fuzz(contents[backend], count)
