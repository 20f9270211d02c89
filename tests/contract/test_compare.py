"""Comparisons: Keras on two frameworks, other libraries, models that differ on purpose, and the command."""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from explainers import Candidate, Comparison, Explainer, References, compare, errors, methods
from explainers.cli import compare as _  # noqa: F401 - adds its command
from explainers.cli.commands import app
from explainers.compare import peers

from .subjects import METHODS, case

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")
X = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
FAST = ("deeplift-rescale", "lrp", "shapley_sampling-antithetic")
BACKENDS = ("tensorflow", "torch")


def saved(model: Any, path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own
        model.save(path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of a Keras model, of a copy with changed weights in one layer, and of one with another activation."""
    folder = tmp_path_factory.mktemp("models")
    model = case("tensorflow-sequential").build("float32")
    paths = {"model": saved(model, folder / "model.keras")}
    layer = model.layers[1]
    kernel, bias = layer.get_weights()
    kernel[2] += 0.2
    layer.set_weights([kernel, bias])
    paths["perturbed"] = saved(model, folder / "perturbed.keras")
    paths["layer"] = layer.name
    np.save(folder / "x.npy", X)
    return paths


def candidate(file: str, method: str, backend: str, **options: Any) -> Candidate:
    """A candidate with a method of the contract suite and the baseline that the method takes."""
    value = METHODS[method]
    rows = np.linspace(-1, 1, 15, dtype="float32").reshape(3, 5)
    if value.baseline != "none":
        options["baseline"] = References(rows) if value.baseline == "references" else rows[0]
    return Candidate(file, value, backend, name=f"{method} {backend}", **options)


def across(file: str, names: Any) -> Comparison:
    return compare([candidate(file, m, b) for m in names for b in BACKENDS], X, target=[0, 1, 2, 0, 1, 2], seconds=0)


# --- two frameworks --------------------------------------------------------------------------


def test_the_same_weights_on_both_frameworks(files: dict[str, str]) -> None:
    comparison = across(files["model"], FAST)
    assert comparison.agrees(), str(comparison)
    for method in FAST:
        assert comparison.pair(f"{method} torch", f"{method} tensorflow").same_method
    assert {row.engine for row in comparison.candidates} == {"torchscript", "graph"}
    here = Explainer.compile(files["model"], METHODS["lrp"])(X, target=[0, 1, 2, 0, 1, 2])
    np.testing.assert_allclose(comparison.attributions["lrp tensorflow"], here, atol=1e-6)
    parting = comparison.locate("lrp torch", "lrp tensorflow")
    assert (parting.kind, parting.by) == ("", "layers")
    assert parting.compared >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sequential", "attention"])
def test_every_method_on_both_frameworks(name: str, tmp_path: Path) -> None:
    contract_case = case(f"tensorflow-{name}")
    file = saved(contract_case.build("float32"), tmp_path / "model.keras")
    (x,) = contract_case.draw(4, "float32", seed=6)
    given = []
    for method, value in METHODS.items():
        options: dict[str, Any] = {}
        if value.baseline != "none":
            rows = np.random.default_rng(1).normal(size=(3, *x.shape[1:])).astype("float32")
            options["baseline"] = References(rows) if value.baseline == "references" else rows[0]
        given += [Candidate(file, value, backend, name=f"{method} {backend}", **options) for backend in BACKENDS]
    compared = compare(given, x, target=[0, 1, 1, 0], seed=9, seconds=0)
    assert compared.agrees(), str(compared.worst)


@pytest.mark.slow
def test_a_perturbed_layer_is_flagged_and_located_across_frameworks(files: dict[str, str]) -> None:
    by_name = {"tf": candidate(files["model"], "deeplift-rescale", "tensorflow"),
             "torch": candidate(files["perturbed"], "deeplift-rescale", "torch")}  # fmt: skip
    comparison = compare(by_name, X, target=1, seconds=0)
    assert not comparison.agrees()
    parting = comparison.locate()
    assert (parting.kind, parting.layer, parting.by) == ("activations", files["layer"], "layers")
    assert files["layer"] in str(parting)


def test_a_process_of_its_own_on_request(files: dict[str, str]) -> None:
    by_name = {"there": Candidate(files["model"], "gradient", "tensorflow", process=True),
             "here": Candidate(files["model"], "gradient", "tensorflow", process=False)}  # fmt: skip
    comparison = compare(by_name, X, target=1, seconds=0)
    assert comparison.agrees(1e-6)
    assert comparison.locate().kind == ""


def test_what_a_process_raises_is_told_here(files: dict[str, str]) -> None:
    with pytest.raises(errors.TargetError, match=r"candidate 'gradient torch'.*9"):
        compare([candidate(files["model"], "gradient", "torch")], X, target=9)
    with pytest.raises(errors.CandidateFailed, match=r"took more than 0\.01 s"):
        compare([candidate(files["model"], "gradient", "torch")], X, target=1, timeout=0.01)


# --- one framework ---------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = (torch.nn.Linear(a, b) for a, b in ((5, 8), (8, 6), (6, 3)))
        self.activation = torch.nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.second(self.activation(self.first(x)))))


class Bent(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.second(torch.nn.functional.gelu(self.first(x)))))


def pair(left: Any, right: Any, **options: Any) -> Comparison:
    return compare({"left": left, "right": right}, X, target=1, **{"seconds": 0, **options})


@pytest.mark.parametrize("layer", ["first", "second", "head"])
@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift", "feature_ablation"])
def test_a_perturbed_layer_is_located(layer: str, method: str) -> None:
    net = Net()
    moved = copy.deepcopy(net)
    with torch.no_grad():
        getattr(moved, layer).weight[0] += 0.3
    comparison = pair(Candidate(net, method), Candidate(moved, method))
    target = comparison.attributions["left"]
    assert target.shape == X.shape
    if layer != "head":  # the target has another row of the head's weights
        assert not comparison.agrees()
    parting = comparison.locate()
    assert (parting.kind, parting.layer) == ("activations", layer)


def test_another_operation_is_located() -> None:
    parting = pair(Candidate(Net(), "gradient"), Candidate(Bent(), "gradient")).locate()
    assert parting.kind == "structure"
    assert parting.layer == "activation"
    assert "relu" in parting.op
    assert "gelu" in parting.other


def test_another_rule_is_located() -> None:
    """The activations agree, but the messages that come back through the ReLU differ."""
    parting = pair(Candidate(Net(), "gradient"), Candidate(Net(), "guided_backprop")).locate()
    assert (parting.kind, parting.layer) == ("messages", "activation")
    parting = pair(
        Candidate(Net(), methods.DeepLift()), Candidate(Net(), methods.DeepLift(rule="revealcancel"))
    ).locate()
    assert parting.kind == "messages"


def test_other_rows_part_nowhere() -> None:
    few, many = methods.IntegratedGradients(steps=2), methods.IntegratedGradients(steps=40)
    comparison = pair(Candidate(Net(), few), Candidate(Net(), many))
    assert not comparison.agrees()
    assert comparison.locate().kind == ""


@pytest.mark.parametrize("engine", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_engines_agree(engine: str) -> None:
    comparison = pair(Candidate(Net(), "deeplift_shap"), Candidate(Net(), "deeplift_shap", engine=engine),
                 baseline=References(X[:3]))  # fmt: skip
    assert comparison.agrees(), str(comparison)
    assert comparison.locate().kind == ""


def test_a_file_is_compared_and_not_located(tmp_path: Path) -> None:
    Explainer.compile(Net(), "lrp", inputs=X).save(tmp_path / "net.explainer")
    comparison = pair(tmp_path / "net.explainer", Candidate(Net(), "lrp"))
    assert comparison.agrees()
    with pytest.raises(errors.InputError, match=r"'left'.*no graph to walk"):
        comparison.locate()


def test_the_model_stays_as_it_is() -> None:
    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    pair(Candidate(net, "deeplift"), Candidate(net, "integrated_gradients")).locate()
    assert net.training
    assert not net.activation._forward_hooks
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


# --- peers -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("peer", "options"),
    [("Saliency", {}), ("InputXGradient", {}), ("IntegratedGradients", {"n_steps": 50}), ("DeepLift", {}),
     ("DeepLiftShap", {}), ("GuidedBackprop", {}), ("FeatureAblation", {})],
)  # fmt: skip
def test_captum(peer: str, options: dict[str, Any]) -> None:
    pytest.importorskip("captum")
    net = Bent() if peer in ("Saliency", "InputXGradient", "IntegratedGradients", "FeatureAblation") else relus()
    ours = peers.CAPTUM[peer]
    baseline = References(X[:3]) if ours == "deeplift_shap" else X[0]
    comparison = pair(
        Candidate(net, ours), Candidate(net, f"captum:{peer}", **options), baseline=baseline, seconds=0.001
    )
    assert comparison.agrees(), str(comparison)
    assert comparison.pairs[0].same_method
    row = comparison.candidates[1]
    assert (row.backend, row.traces, row.rows_per_s) == ("captum", None, None)
    assert row.one_ms > 0
    gap = comparison.candidates[0].gap
    if peer in ("DeepLift", "IntegratedGradients"):
        assert row.gap == pytest.approx(gap, abs=1e-3)
    with pytest.raises(errors.InputError, match=r"'right'.*another library"):
        comparison.locate()


def relus() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


@pytest.mark.filterwarnings("ignore")
def test_shap() -> None:
    pytest.importorskip("shap")
    net = relus()
    ours, peer = Candidate(net, "deeplift_shap"), Candidate(net, "shap:DeepExplainer")
    for target in (1, [0, 1, 2, 0, 1, 2], "max"):
        comparison = compare([ours, peer], X, target=target, baseline=References(X[:4]), seconds=0)
        assert comparison.agrees(), str(comparison)


@pytest.mark.parametrize(
    ("model", "method", "kind", "expected"),
    [
        (Net(), "captum:DeepLfit", errors.UnknownNameError, "DeepLift"),
        (lambda x: x, "captum:DeepLift", errors.InputError, "torch modules"),
        (Net(), "shap:DeepExplainer", errors.BackendMissing, "pip install shap"),
    ],
)  # fmt: skip
def test_peers_that_cannot(
    model: Any, method: str, kind: type[Exception], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(kind, match=expected):
        compare([Candidate(model, method)], X, target=1)
    if "captum" in method and not importlib.util.find_spec("captum"):
        pytest.skip("captum is not installed")


def test_a_framework_that_is_missing(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    from explainers import backend

    monkeypatch.setattr(type(backend.backends()["torch"]), "installed", lambda self: False)
    with pytest.raises(errors.BackendMissing, match=r"candidate .*pip install 'explainers\[torch\]'"):
        compare([Candidate(Net(), "gradient", "torch")], X, target=1)


# --- the command -----------------------------------------------------------------------------


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, ["compare", *arguments, "--inputs", "x.npy"], env={"COLUMNS": "200"})
    finally:
        os.chdir(before)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_the_command(files: dict[str, str]) -> None:
    folder = Path(files["model"]).parent
    options = ("--backends", "torch,tensorflow", "--methods", "saliency,lrp", "--target", "max", "--seconds", "0")
    status, text = run(folder, "model.keras", *options, "--html", "out.html", "--json", "out.json")
    assert status == 0, text
    assert "2 of 2 pairs of the same method agree" in text
    assert (folder / "out.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert '"agrees": true' in (folder / "out.json").read_text(encoding="utf-8")


def test_the_command_tells_ci_what_differs(files: dict[str, str]) -> None:
    folder = Path(files["model"]).parent
    options = ("--engines", "graph,eager", "--backends", "tensorflow", "--target", "1", "--seconds", "0")
    given = ("--methods", "smoothgrad", "--set", "samples=3")
    assert run(folder, "model.keras", *given, *options)[0] == 0
    (folder / "drawn.py").write_text(
        "import numpy as np\n"
        "generator = np.random.default_rng(0)\n"
        "def model():\n"
        "    weights = generator.normal(size=(5, 3))\n"  # every candidate gets a different model
        "    return lambda x: x @ weights\n",
        encoding="utf-8",
    )
    given = ("--methods", "feature_ablation,occlusion", "--set", "window=2", "--target", "1", "--seconds", "0")
    status, text = run(folder, "drawn.py:model", *given)
    assert status == 1, text  # no two candidates share a method, so every pair counts
    given = ("--methods", "feature_ablation", "--engines", "eager,eager", "--target", "1", "--seconds", "0")
    assert run(folder, "drawn.py:model", *given)[0] == 0  # one candidate, named twice


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("absent.keras", "--methods", "lrp"), "no model 'absent.keras'"),
        (("model.keras", "--methods", "lpr"), "lrp"),
        (("model.keras", "--methods", ","), "--methods is empty"),
        (("model.keras", "--methods", "lrp", "--set", "stesp=3"), "'stesp'"),
        (("model.keras", "--methods", "lrp", "--backends", "jax"), "'jax'"),
        (
            ("model.keras", "--methods", "lrp", "--backends", "tensorflow", "--engines", "inductor"),
            "none of the backends",
        ),
        (("model.keras", "--methods", "lrp", "--target", "9", "--seconds", "0"), "candidate"),
        (("model.keras", "--methods", "lrp", "--baseline", "0", "--references", "@x.npy"), "not both"),
        (("model.keras",), "methods"),
    ],
)
def test_usage_is_status_2(files: dict[str, str], arguments: tuple[str, ...], expected: str) -> None:
    status, text = run(Path(files["model"]).parent, *arguments)
    assert status == 2, text
    assert expected in " ".join(text.split())
    assert "Traceback" not in text
