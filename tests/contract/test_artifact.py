"""Files of explainers: the same bits in another process without the model; what is broken is refused unread."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, methods
from explainers.backend import named
from explainers.errors import ArtifactError, InputError
from explainers.methods.lrp import LRP, Composite, Epsilon, Flat, Gamma

from . import artifacts
from .artifacts import Job, in_another_process, members
from .child import run
from .subjects import CASE_NAMES, ENGINES, METHODS, ONE_OF_EACH, SMALLEST, case, subject

FORMS = ("code", "data")
DEFAULT = {"torch": "torchscript", "tensorflow": "graph"}
MAIN = tuple(DEFAULT)


def job(label: str, method: str, dtype: str = "float32", **options: Any) -> Job:
    """An explainer with calls of several sizes, targets, baselines and seeds."""
    found = subject(label, dtype)
    value = METHODS.get(method, method)
    name = getattr(value, "name", value)
    arrays = found.case.draw(5, dtype)
    options = {**found.case.options(), **options}
    given = found.case.given(arrays)
    explain = Explainer.compile(found.model, value, inputs=given, **options)
    target = found.target(np.asarray(explain.predict(**given) if isinstance(given, dict) else explain.predict(*given)))
    calls: list[tuple[list[Any], dict[str, Any]]] = [(arrays, {"target": target})]
    sampled = {"seed": 7} if explain.method.sampled else {}
    small = [array[:2] for array in arrays]
    calls.append((small, {"target": "max", "batch_size": 3, **sampled}))
    if explain.method.baseline != "none" and found.case.wrt is None and len(arrays) == 1:
        turned = arrays[0][::-1].copy()
        other = {
            "point": turned,
            "references": References(arrays[0][1:4].copy()),
            "either": References(turned[:, None], per_sample=True),
        }[explain.method.baseline]
        calls.append((arrays, {"target": target, "baseline": other, **sampled}))
    return Job(f"{label} {name} {options}", explain, calls)


CHOICES: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "torch": [
        ("torch-cnn", "lrp-epsilon_plus_flat", {}),
        ("torch-cnn", "deeplift_shap", {"dtype": "float64"}),
        ("torch-two_inputs", "integrated_gradients-gauss_legendre", {}),
        ("torch-two_inputs", "kernel_shap", {}),
        ("torch-float_and_mask", "deeplift-rescale", {}),
        ("torch-tokens", "integrated_gradients-gauss_legendre", {"per_token": True}),
        ("torch-tokens", "deeplift-rescale", {}),
        ("torch-tokens", "shapley_sampling-antithetic", {}),
        ("torch-spatial", "gradient", {}),
        ("torch-dict", "lrp", {}),
    ],
    "tensorflow": [
        ("tensorflow-cnn", "lrp-epsilon_plus_flat", {}),
        ("tensorflow-two_inputs", "integrated_gradients-gauss_legendre", {}),
        ("tensorflow-attention", "deeplift-rescale", {}),
        ("tensorflow-tokens", "integrated_gradients-gauss_legendre", {"per_token": True}),
        ("tensorflow-tokens", "shapley_sampling-antithetic", {}),
        ("tensorflow-subclassed", "gradient", {}),
        ("tensorflow-lstm", "gradient", {}),
        ("tensorflow-dict", "lrp", {}),
    ],
}


@pytest.mark.parametrize("program", FORMS)
@pytest.mark.parametrize("backend", MAIN)
def test_every_method_gives_the_same_bits_in_another_process(backend: str, program: str, tmp_path: Path) -> None:
    jobs = [job(SMALLEST[backend], method) for method in [*ONE_OF_EACH, "kernel_shap", "lime", "rise", "exact_shapley"]]
    in_another_process(jobs, tmp_path, program)


@pytest.mark.parametrize("program", FORMS)
@pytest.mark.parametrize("backend", MAIN)
def test_layers_inputs_outputs_and_dtypes_come_back(backend: str, program: str, tmp_path: Path) -> None:
    in_another_process(
        [job(label, method, **options) for label, method, options in CHOICES[backend]], tmp_path, program
    )


@pytest.mark.parametrize(
    ("backend", "engine", "program"),
    [(b, e, p) for p in FORMS for b, e in (("torch", "eager"), ("torch", "inductor"), ("tensorflow", "xla"))
     if (e, p) != ("inductor", "data")],  # compiling it takes long: test_every_method_on_every_engine has it
)  # fmt: skip
def test_other_engines_compile_what_the_file_holds(backend: str, engine: str, program: str, tmp_path: Path) -> None:
    names = ["gradient", "deeplift-rescale", "deeplift_shap"]
    in_another_process([job(SMALLEST[backend], name, engine=engine) for name in names], tmp_path, program)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("program", FORMS)
@pytest.mark.parametrize(("backend", "engine"), [(b, e) for b in MAIN for e in ENGINES[b]])
def test_every_method_on_every_engine(backend: str, engine: str, program: str, method: str, tmp_path: Path) -> None:
    if engine == "eager" and METHODS[method].rule_set is None:
        pytest.skip("the model is called as it is, which has no file")
    in_another_process([job(SMALLEST[backend], method, engine=engine)], tmp_path, program)


@pytest.mark.slow
@pytest.mark.parametrize("program", FORMS)
@pytest.mark.parametrize("label", [f"{b}-{name}" for b in MAIN for name in CASE_NAMES[b]])
def test_every_architecture(label: str, program: str, tmp_path: Path) -> None:
    chosen = ["gradient", "integrated_gradients-gauss_legendre", "deeplift-rescale", "lrp", "shapley_sampling-plain"]
    in_another_process([job(label, method) for method in chosen], tmp_path, program)


# --- what a file keeps -----------------------------------------------------------------------


def compiled(backend: str, method: Any = "integrated_gradients", **options: Any) -> tuple[Explainer, np.ndarray]:
    found = subject(SMALLEST[backend], "float32")
    (x,) = found.case.draw(4, "float32")
    return Explainer.compile(found.model, method, inputs=x, **options), x


def loaded(explain: Explainer) -> Explainer:
    buffer = io.BytesIO()
    explain.save(buffer)
    return Explainer.load(buffer.getvalue())


@pytest.mark.parametrize("backend", MAIN)
def test_parameters_baselines_groups_and_composites_come_back(backend: str) -> None:
    groups = np.array([0, 0, 1, 2, 2])
    background = np.random.default_rng(3).normal(size=(3, 5)).astype("float32")
    native = named(backend).stage(background, "float32", _device(backend))
    for method, options in [
        (methods.ShapleySampling(4, groups=groups), {"baseline": background[0]}),
        (methods.FeatureAblation(groups=named(backend).stage(groups, "int64", _device(backend))), {}),
        ("gradient_shap", {"baseline": References(native)}),
        ("deeplift_shap", {"baseline": References(background)}),
        ("deeplift", {"baseline": native[:1]}),
        (LRP(Composite([(0, Flat()), ("dense", Gamma(0.1))], Epsilon(1e-3))), {}),
        (methods.IntegratedGradients(4, tolerance=1e-2), {"batch_size": 3}),
    ]:
        explain, x = compiled(backend, method, **options)
        other = loaded(explain)
        np.testing.assert_array_equal(other(x, target=1), explain(x, target=1))
        assert type(other.method) is type(explain.method)
        assert other.stats.traces == 0
        assert other.stats.batch_size == explain.stats.batch_size


def _device(backend: str) -> Any:
    import torch

    return torch.device("cpu") if backend == "torch" else None


@pytest.mark.parametrize("backend", MAIN)
def test_a_loaded_explainer_does_what_one_that_was_compiled_does(backend: str) -> None:
    explain, x = compiled(backend, "deeplift")
    other = loaded(explain)
    assert str(other.graph) == str(explain.graph)
    assert other.coverage == explain.coverage
    assert other.signature == explain.signature
    assert other.placeholders == explain.placeholders
    assert other.warmup([1, 4]).stats.traces == 0
    a, b = explain.explanation(x, target="max"), other.explanation(x, target="max")
    for name in ("attributions", "outputs", "baseline_outputs", "completeness_gap", "target"):
        np.testing.assert_array_equal(getattr(b, name, None), getattr(a, name, None))
    assert callable(other.native)
    assert other.predict(x[:0]).shape == explain.predict(x[:0]).shape
    np.testing.assert_array_equal(explain.predict(x), a.outputs)
    own = named(backend).stage(x, "float32", _device(backend))
    assert type(other(own, target=1)) is type(other.predict(own)) is type(own)
    np.testing.assert_array_equal(loaded(other)(x, target=1), explain(x, target=1))  # a file of what was loaded


@pytest.mark.parametrize("backend", MAIN)
def test_what_needs_the_model_says_so(backend: str) -> None:
    explain, x = compiled(backend, "deeplift")
    other = loaded(explain)
    with pytest.raises(ArtifactError, match="audit needs the model, and this explainer was loaded from a file"):
        other.audit(x, target=1)
    with pytest.raises(ArtifactError, match="refresh needs the model"):
        other.refresh()


@pytest.mark.parametrize("backend", MAIN)
def test_the_reference_s_activations_are_kept_after_a_load(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = loaded(compiled(backend, "deeplift")[0])
    x = compiled(backend)[1]
    other(x, target=1)
    kernel = other._plan.packages.kernel  # type: ignore[union-attr]

    def counted(rows: Any, part: str = "") -> Any:
        assert part != "reference"
        return kernel(rows, part)

    monkeypatch.setattr(other._plan.packages, "kernel", counted)  # type: ignore[union-attr]
    other(x[:2], target=2)


def test_saving_takes_values_that_are_traced_and_hold_no_code(tmp_path: Path) -> None:
    found = subject("torch-mlp", "float32")
    path = tmp_path / "x.explainer"
    with pytest.raises(InputError, match=r"save needs a traced model.*Give inputs="):
        Explainer.compile(found.model, "gradient").save(path)
    explain, x = compiled("torch", baseline=lambda given: given * 0)
    explain(x, target=1)
    with pytest.raises(ArtifactError, match=r"baseline is code .*give it at each call"):
        explain.save(path)
    explain, x = compiled("torch", methods.Perturbation(_nothing, _zeros))
    with pytest.raises(ArtifactError, match=r"method is code .*Perturbation"):
        explain.save(path)
    assert not os.listdir(tmp_path)


def _nothing(x: Any, attribution: Any) -> list[Any]:
    return []


def _zeros(values: Any, x: Any) -> Any:
    return x * 0


def test_another_device_is_refused() -> None:
    buffer = io.BytesIO()
    compiled("torch")[0].save(buffer)
    assert Explainer.load(buffer.getvalue(), device="cpu")
    with pytest.raises(ArtifactError, match=r"made for the device cpu.*they cannot run on meta"):
        Explainer.load(buffer.getvalue(), device="meta")


# --- the members -----------------------------------------------------------------------------

FRAMEWORKS = {
    ("torch", "torchscript"): {"program.pt"},
    ("torch", "eager"): {"explain.pt2", "predict.pt2", "reference.pt2", "weights.safetensors"},
    ("tensorflow", "graph"): {
        f"saved_model/{name}"
        for name in ("saved_model.pb", "fingerprint.pb", "variables/variables.index",
                     "variables/variables.data-00000-of-00001")
    },
}  # fmt: skip


@pytest.mark.parametrize(("backend", "engine"), FRAMEWORKS)
def test_members_are_json_safetensors_and_the_framework_s_own(backend: str, engine: str) -> None:
    buffer = io.BytesIO()
    explain = compiled(backend, "deeplift", engine=engine, baseline=np.ones(5, "float32"))[0]
    explain.save(buffer)
    files = members(buffer.getvalue())
    assert set(files) == {"manifest.json", "graph.json", "arrays.safetensors", *FRAMEWORKS[backend, engine]}
    for name, content in files.items():
        if name.endswith(".json"):
            json.loads(content)
        if name.endswith(".pt2"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch.export would unpickle tensors; there are none
                assert not [info for info in archive.infolist() if "data/" in info.filename and info.file_size > 100]


@pytest.mark.parametrize("engine", ["torchscript", "eager"])
@pytest.mark.parametrize("dtype", [None, "bfloat16", "float64"])
def test_weights_keep_their_dtype_and_the_order_of_their_axes(engine: str, dtype: str | None) -> None:
    import torch

    convolution = torch.nn.Conv2d(3, 4, 3)
    model = torch.nn.Sequential(convolution, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5))
    x = torch.randn(3, 3, 8, 8)
    explain = Explainer.compile(
        model.to(memory_format=torch.channels_last), "deeplift", inputs=x, engine=engine, dtype=dtype
    )
    other = copy.deepcopy(explain)
    for _ in range(2):
        assert torch.equal(other(x, target=1), explain(x, target=1))
        other = copy.deepcopy(other)


@pytest.mark.parametrize("engine", ["torchscript", "eager"])
def test_weights_are_written_once(engine: str) -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(300, 500), torch.nn.ReLU(), torch.nn.Linear(500, 2))
    explain = Explainer.compile(model, "deeplift", inputs=np.zeros((1, 300), "float32"), engine=engine)
    buffer = io.BytesIO()
    explain.save(buffer)
    assert len(buffer.getvalue()) < 1.3 * 4 * sum(p.numel() for p in model.parameters())


def test_the_manifest_tells_what_a_file_holds_without_a_framework(tmp_path: Path) -> None:
    explain = compiled("torch", "deeplift", batch_size=16)[0]
    explain.save(tmp_path / "x.explainer")
    script = """
        import json, sys
        from explainers.file import read_manifest
        found = read_manifest("x.explainer")
        print(json.dumps([
            found.backend, found.engine, found.device, found.method, str(found.signature), found.output,
            list(found.attributed), found.batch_size, sorted(found.placeholders),
            [p.name for p in found.placeholders["explain"]], len(found.coverage), sorted(found.versions),
            found.size, "torch" in sys.modules,
        ]))
    """
    told = run(script, tmp_path, PYTHONPATH=artifacts.importable())
    assert told[:8] == ["torch", "torchscript", "cpu", repr(explain.method), str(explain.signature), "0", ["x"], 16]
    assert told[8:10] == [["explain", "predict", "reference"], list(explain.placeholders)]
    assert told[10:12] == [len(explain.coverage), ["explainers", "numpy", "python", "torch"]]
    assert told[12] < (tmp_path / "x.explainer").stat().st_size
    assert told[13] is False


# --- without this library --------------------------------------------------------------------

STANDALONE = {
    "torch": """
        import json, zipfile, io, warnings, numpy as np, torch
        warnings.simplefilter("ignore")
        with zipfile.ZipFile("x.explainer") as archive:
            names = [p["fields"]["name"] for p in json.loads(archive.read("manifest.json"))["parts"]["explain"]]
            program = torch.jit.load(io.BytesIO(archive.read("program.pt")))
        x, mask, want = (torch.from_numpy(np.load(f"{name}.npy")) for name in ("x", "mask", "want"))
        with torch.no_grad():
            y, attribution = program.explain(x, mask, torch.tensor(0.0))
        same = torch.equal(attribution, want) and torch.equal(y, program.predict(x)[0])
        print(json.dumps([names[1:], same, "explainers" in __import__("sys").modules]))
    """,
    "tensorflow": """
        import json, zipfile, numpy as np, tensorflow as tf
        with zipfile.ZipFile("x.explainer") as archive:
            names = [p["fields"]["name"] for p in json.loads(archive.read("manifest.json"))["parts"]["explain"]]
            archive.extractall("here")
        program = tf.saved_model.load("here/saved_model")
        x, mask, want = (tf.constant(np.load(f"{name}.npy")) for name in ("x", "mask", "want"))
        y, attribution = program.explain(x, mask, tf.constant(0.0))
        (predicted,) = program.predict(x)
        same = bool(tf.reduce_all(attribution == want)) and bool(tf.reduce_all(y == predicted))
        served = program.signatures["predict"](x)
        same = same and bool(tf.reduce_all(served["output_0"] == y))
        print(json.dumps([names[1:], same, "explainers" in __import__("sys").modules]))
    """,
}


@pytest.mark.parametrize("backend", MAIN)
def test_the_program_runs_without_this_library(backend: str, tmp_path: Path) -> None:
    explain, x = compiled(backend, "gradient")
    explain.save(tmp_path / "x.explainer")
    mask = np.zeros((len(x), *explain.predict(x).shape[1:]), "float32")
    mask[:, 1] = 1
    for name, array in {"x": x, "mask": mask, "want": explain(x, target=1)}.items():
        np.save(tmp_path / f"{name}.npy", array)
    blocked = ("explainers", "explainers_torch", "explainers_tensorflow", "tests")
    script = STANDALONE[backend]
    if backend == "tensorflow":
        script = script.replace('["predict"](x)', f'["predict"](**{{{_input_name(explain)!r}: x}})')
    assert run(script, tmp_path, blocked=blocked) == [["mask", "choose"], True, False]


def _input_name(explain: Explainer) -> str:
    return explain.native.structured_input_signature[0][0].name


# --- pickles ---------------------------------------------------------------------------------


def _explained(explain: Explainer, x: np.ndarray) -> tuple[np.ndarray, int]:
    return explain(x, target=1), explain.stats.traces


@pytest.mark.parametrize("backend", MAIN)
def test_explainers_go_to_processes(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    explain, x = compiled(backend, "deeplift")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([artifacts.importable(), os.environ.get("PYTHONPATH", "")]))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found, traces = pool.submit(_explained, explain, x).result(timeout=300)
    np.testing.assert_array_equal(found, explain(x, target=1))
    assert traces == 0


def test_a_pickle_holds_the_file_and_no_more() -> None:
    import pickletools

    explain, x = compiled("torch", "deeplift")
    content = pickle.dumps(explain)
    named_ = {str(arg) for op, arg, _ in pickletools.genops(content) if op.name in ("GLOBAL", "SHORT_BINUNICODE")}
    assert named_ <= {"explainers.explainer.api", "Explainer.load", "builtins", "getattr", "Explainer", "load"}
    np.testing.assert_array_equal(pickle.loads(content)(x, target=1), explain(x, target=1))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pickle.loads(content)))(x, target=1), explain(x, target=1))


# --- broken files ----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[("torch", "torchscript"), ("torch", "eager"), ("tensorflow", "graph")], ids=str)
def good(request: pytest.FixtureRequest) -> tuple[str, bytes]:
    backend, engine = request.param
    buffer = io.BytesIO()
    compiled(backend, "deeplift", engine=engine, baseline=np.ones(5, "float32"))[0].save(buffer)
    return backend, buffer.getvalue()


def test_what_is_broken_is_refused_before_a_framework_reads_it(
    good: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backend, content = good
    bad = artifacts.broken(content)
    assert len(bad) > 30

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("a framework was given a broken file")

    monkeypatch.setattr(type(named(backend)), "load", never)
    for name, (broken, said) in bad.items():
        path = tmp_path / "x.explainer"
        path.write_bytes(broken)
        for source in (path, broken, io.BytesIO(broken)):
            with pytest.raises(ArtifactError) as error:
                Explainer.load(source)
            assert said in str(error.value), name
        assert "x.explainer' is refused" in str(_error(path)), name


def _error(path: Path) -> ArtifactError:
    with pytest.raises(ArtifactError) as error:
        Explainer.load(path)
    return error.value


def test_a_good_file_reaches_the_framework(good: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above."""
    backend, content = good

    def reached(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(named(backend)), "load", reached)
    with pytest.raises(KeyboardInterrupt):
        Explainer.load(content)


def test_members_of_a_backend_are_those_that_it_writes(good: tuple[str, bytes]) -> None:
    _, content = good
    more = artifacts.rewritten(content, lambda _, files: files.update({"other.bin": b"x"}))
    with pytest.raises(ArtifactError, match="it holds"):
        Explainer.load(more)


def test_programs_of_other_arguments_are_refused(good: tuple[str, bytes]) -> None:
    _, content = good

    def change(data: dict[str, Any], _: Any) -> None:
        data["parts"]["explain"][0]["fields"]["name"] = "else"

    with pytest.raises(ArtifactError, match="its programs take other arguments than this version gives them"):
        Explainer.load(artifacts.rewritten(content, change))


def test_torch_export_never_unpickles(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    buffer = io.BytesIO()
    explain, x = compiled("torch", "gradient", engine="eager")
    explain.save(buffer)

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("unpickled")

    monkeypatch.setattr(torch, "load", never)
    monkeypatch.setattr(pickle, "loads", never)
    np.testing.assert_array_equal(Explainer.load(buffer.getvalue())(x, target=1), explain(x, target=1))

    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, x: Any) -> Any:
            return x * self.weight

    made = io.BytesIO()
    torch.export.save(torch.export.export(Holder(), (torch.ones(3),)), made)
    forged = artifacts.rewritten(buffer.getvalue(), lambda _, files: files.update({"explain.pt2": made.getvalue()}))
    with pytest.raises(ArtifactError, match=r"explain\.pt2 holds .*which programs of explainers do not have"):
        Explainer.load(forged)


def test_no_folder_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    explain, x = compiled("tensorflow", "gradient")
    np.testing.assert_array_equal(loaded(explain)(x, target=1), explain(x, target=1))
    assert not os.listdir(tmp_path)


def test_case_names_are_those_of_the_contract() -> None:
    assert all(case(label) for backend in MAIN for label, _, _ in CHOICES[backend])
