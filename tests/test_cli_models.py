"""``run``, ``report`` and ``serve`` for models without a file: functions and Explainers in modules."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, serve
from explainers.methods import FeatureAblation, Occlusion, ShapleySampling

from .test_cli import done, refused, run

MODULE = """
import os
import numpy as np
from explainers import Explainer

generator = np.random.default_rng(int(os.environ.get("MODEL_SEED", "0")))
x = np.load("x.npy")

class Net:  # two layers, trained by least squares on the second
    def __init__(self):
        self.inner = generator.normal(size=(4, 32))
        self.outer = np.linalg.lstsq(np.tanh(x @ self.inner), np.stack([x[:, 0] * x[:, 1], x[:, 2]], 1), rcond=None)[0]

    def predict(self, x):
        if os.path.exists("stop") and calls.append(1) is None and len(calls) > 12:
            raise KeyboardInterrupt
        return np.tanh(x @ self.inner) @ self.outer

calls = []
net = Net()
class Estimator:
    predict_proba = net.predict
estimator = Estimator()
explain = Explainer.compile(net.predict, "shapley_sampling", inputs=x[:1], baseline=x.mean(0))
lazy = Explainer.compile(net.predict, "exact_shapley", baseline=x.mean(0))
def pair(image, wave):
    return np.tanh(image.sum((1, 2))[:, None] * wave)
def tensors(x):
    import torch
    return torch.tanh(x)
def failing():
    raise OSError("no weights here")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module of models, and samples."""
    result = tmp_path_factory.mktemp("models")
    (result / "own.py").write_text(MODULE)
    generator = np.random.default_rng(1)
    np.save(result / "x.npy", generator.normal(size=(200, 4)))
    np.save(result / "few.npy", generator.normal(size=(3, 4)))
    np.save(result / "none.npy", np.zeros((0, 4)))
    np.savez(result / "pair.npz", image=generator.normal(size=(9, 2, 3)), wave=generator.normal(size=(9, 3)))
    (result / "absent.py").write_text("import a_package_that_is_not_there\n")
    (result / "broken.py").write_text("x = 1\ny = x / 0\n")
    (result / "syntax.py").write_text("x = (\n")
    (result / "ends.py").write_text("import sys\nsys.exit(0)\n")
    return result


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """The function in the module, made again here."""
    names: dict[str, Any] = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(MODULE, names)
    finally:
        os.chdir(before)
    return names["net"].predict


FUNCTION = ("own.py:net.predict",)


def test_a_function_runs_with_a_method(folder: Path, model: Any) -> None:
    x = np.load(folder / "x.npy")
    command = ("run", *FUNCTION, "x.npy", "--target", "1", "--block", "32", "--overwrite", "-o", "out.npy", "--method")
    done(folder, *command, "occlusion", "--set", "window=2")
    right = Explainer.compile(model, Occlusion(window=2), inputs=x[:1])(x, target=1)
    np.testing.assert_allclose(np.load(folder / "out.npy"), right, atol=1e-12)
    done(folder, *command, "shapley_sampling", "--set", "permutations=3", "--references", "@few.npy", "--seed", "5")
    method = ShapleySampling(permutations=3)
    background = References(np.load(folder / "few.npy"))
    right = Explainer.compile(model, method, inputs=x[:1])(x, target=1, seed=5, baseline=background)
    np.testing.assert_allclose(np.load(folder / "out.npy"), right, atol=1e-12)


def test_a_module_in_the_working_folder(folder: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    done(folder, "run", "own:net.predict", "x.npy", "--target", "0", "--method", "feature_ablation", "-o", "by.npy")
    x = np.load(folder / "x.npy")
    right = Explainer.compile(model, "feature_ablation", inputs=x[:1])(x, target=0)
    np.testing.assert_allclose(np.load(folder / "by.npy"), right, atol=1e-12)


@pytest.mark.parametrize(("name", "method"), [("explain", "shapley_sampling"), ("lazy", "exact_shapley")])
def test_an_explainer_in_a_module(folder: Path, model: Any, name: str, method: str) -> None:
    """One that was compiled without inputs is traced by the samples; ``--set`` changes the effort."""
    x = np.load(folder / "x.npy")
    extra = ("--set", "permutations=4") if name == "explain" else ()
    done(folder, "run", f"own.py:{name}", "x.npy", "--target", "1", "-o", f"{name}.npy", *extra)
    explain = Explainer.compile(model, method, inputs=x[:1], baseline=x.mean(0))
    explain = explain.replace(permutations=4) if extra else explain
    np.testing.assert_allclose(np.load(folder / f"{name}.npy"), explain(x, target=1), atol=1e-12)


def test_several_inputs_by_name(folder: Path) -> None:
    done(folder, "run", "own.py:pair", "pair.npz", "--target", "2", "--method", "occlusion", "-o", "parts.npz")
    with np.load(folder / "pair.npz") as x, np.load(folder / "parts.npz") as found:
        names: dict[str, Any] = {"np": np}
        exec(MODULE[MODULE.index("def pair") : MODULE.index("def tensors")], names)
        right = Explainer.compile(names["pair"], "occlusion", inputs=dict(x))(dict(x), target=2)
        assert set(found) == {"image", "wave"}
        for name in right:
            np.testing.assert_allclose(found[name], right[name], atol=1e-12)


def test_a_function_of_tensors(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    command = ("run", "own.py:tensors", "x.npy", "--target", "3", "-o", "tensors.npy", "--method")
    assert "--backend torch" in refused(folder, *command, "occlusion")
    assert "--backend torch" in refused(folder, *command, "deeplift")
    done(folder, *command, "deeplift", "--backend", "torch", "--dtype", "float64")
    x = np.load(folder / "x.npy")
    right = np.zeros_like(x)
    right[:, 3] = torch.tanh(torch.tensor(x[:, 3])).numpy()  # from 0
    np.testing.assert_allclose(np.load(folder / "tensors.npy"), right, atol=1e-6)


def test_a_report_of_a_function(folder: Path, model: Any) -> None:
    x = np.load(folder / "x.npy")
    options = ("--target", "1", "--method", "exact_shapley", "--samples", "7,", "--kind", "bars", "-o", "page.html")
    done(folder, "report", *FUNCTION, "x.npy", *options, "--references", "@few.npy")
    explain = Explainer.compile(model, "exact_shapley", inputs=x[:1])
    result = explain(x[7:8], target=1, baseline=References(np.load(folder / "few.npy")))[0]
    top = int(np.abs(result).argmax())
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert f"largest at {top}: {result[top]:.3g}".replace("-", "−") in page


# --- resumption ------------------------------------------------------------------------------


@pytest.fixture
def interrupted(folder: Path) -> Any:
    """The arguments of a run that was interrupted after some blocks, and the number of samples that are done."""
    command = ["run", *FUNCTION, "x.npy", "--target", "1", "--block", "16", "-o", "resumed.npy"]
    command += ["--method", "shapley_sampling", "--set", "permutations=6"]
    (folder / "stop").touch()
    status, text = run(folder, *command)
    (folder / "stop").unlink()
    assert status == 130, text
    state = json.loads((folder / "resumed.npy.part" / "state.json").read_text())
    assert 0 < state["done"] < 200
    yield command
    run(folder, *command, "--restart", "--overwrite")
    (folder / "resumed.npy").unlink()


def test_an_interrupted_run_goes_on(folder: Path, model: Any, interrupted: list[str]) -> None:
    state = json.loads((folder / "resumed.npy.part" / "state.json").read_text())
    part = np.load(folder / "resumed.npy.part" / "0.npy", mmap_mode="r+")
    part[0] = 123.0  # kept, not computed again
    part.flush()
    assert f"{state['done']}" != "0"
    done(folder, *interrupted)
    found, x = np.load(folder / "resumed.npy"), np.load(folder / "x.npy")
    assert (found[0] == 123.0).all()
    right = Explainer.compile(model, ShapleySampling(permutations=6), inputs=x[:1])(x, target=1)
    np.testing.assert_allclose(found[1:], right[1:], atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        ("--method", "kernel_shap"), ("--set", "permutations=7"), ("--references", "@few.npy"), ("--baseline", "1"),
        ("--batch-size", "3"), "own.py:estimator.predict_proba", "source", "seed",
    ],
    ids=str,
)  # fmt: skip
def test_another_model_or_method_does_not_go_on(
    folder: Path, interrupted: list[str], change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, source = list(interrupted), (folder / "own.py").read_text()
    expected = "part of another run"
    if isinstance(change, tuple):
        command = [*(command if change[0] != "--method" else command[:-2]), *change]
    elif change == "source":
        (folder / "own.py").write_text(source.replace("tanh", "sin"))
    elif change == "seed":  # the same source trains another model
        monkeypatch.setenv("MODEL_SEED", "1")
        expected = "its outputs for the first samples differ"
    else:
        command[1] = change
    try:
        assert expected in refused(folder, *command)
    finally:
        (folder / "own.py").write_text(source)


def test_the_method_is_part_of_what_tells_runs_apart(model: Any) -> None:
    from explainers.cli.loading import Compiling, Subject

    subject, x = Subject("own.py:explain", "model", model), np.zeros((1, 4))
    made = [
        subject.identity(Explainer.compile(model, method, inputs=x), Compiling())
        for method in (
            FeatureAblation(), FeatureAblation(np.array([0, 0, 1, 1])), FeatureAblation(np.array([0, 1, 1, 1])),
            FeatureAblation(np.array([0, 1, 1, 1])),
        )
    ]  # fmt: skip
    assert made[2] == made[3]
    assert made[0] != made[1] != made[2] != made[0]


# --- tables of words ---------------------------------------------------------------------------

TABLES = """
import numpy as np
kinds = set()
def model(table):
    kinds.add(type(table).__module__.partition(".")[0])
    rows = table.to_pylist() if hasattr(table, "to_pylist") else table.to_dict("records") if hasattr(table, "iloc") \\
        else table.to_dicts()
    return np.array([len(row["word"] or "") * row["times"] + 3 * (row["color"] == "red") for row in rows])
def pandas_only(table):
    return table["word"].str.len().to_numpy() * table["times"].to_numpy()
"""


@pytest.fixture(scope="module")
def words(folder: Path) -> Any:
    """Tables of words and a module with functions of them; the frame of 40 rows."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    (folder / "of_words.py").write_text(TABLES)
    frame = pandas.DataFrame({
        "word": ["x" * (i % 5) + "é" * (i % 3) for i in range(40)], "times": np.arange(40.0),
        "color": pandas.Categorical(["red", "blue"] * 20, categories=["blue", "green", "red"]),
    })  # fmt: skip
    frame.to_parquet(folder / "words.parquet")
    frame[["color", "times", "word"]].iloc[3:4].to_parquet(folder / "row.parquet")
    frame.iloc[:6].to_parquet(folder / "rows.parquet")
    return frame


@pytest.mark.parametrize("kind", [None, "arrow", "pandas", "polars"])
@pytest.mark.parametrize("option", ["--baseline", "--references"])
def test_a_table_of_words(folder: Path, words: Any, option: str, kind: str | None) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("polars" if kind == "polars" else "pandas")
    given = "@row.parquet" if option == "--baseline" else "@rows.parquet"
    extra = ("--tables", kind) if kind else ()
    done(
        folder, "run", "of_words.py:model", "words.parquet", "--method", "exact_shapley", option, given, "--block", "7",
        "-o", "words_out.parquet", "--overwrite", *extra,
    )  # fmt: skip
    names: dict[str, Any] = {}
    exec(TABLES, names)
    baseline = words.iloc[3:4] if option == "--baseline" else References(words.iloc[:6])
    right = Explainer.compile(names["model"], "exact_shapley", inputs=words, baseline=baseline)(words)
    found = pandas.read_parquet(folder / "words_out.parquet")
    assert list(found) == list(words)
    np.testing.assert_allclose(found, right, atol=1e-12)


def test_what_is_wrong_with_words_is_told(folder: Path, words: Any) -> None:
    command = ("run", "of_words.py:model", "words.parquet", "--method", "exact_shapley", "-o", "w.npy")
    assert "column 'word' (and 1 more) of input 'input' holds no numbers" in refused(folder, *command)
    assert "a table of one row" in refused(folder, *command, "--baseline", "@rows.parquet")
    assert "unknown kind of table 'excel'" in refused(folder, *command, "--tables", "excel")
    only = ("run", "of_words.py:pandas_only", *command[2:])
    assert "--tables pandas" in refused(folder, *only, "--references", "@rows.parquet")
    done(folder, *only, "--references", "@rows.parquet", "--tables", "pandas")
    (folder / "w.npy").unlink()
    serving = ("serve", "of_words.py:model", "--method", "exact_shapley", "--inputs", "words.parquet")
    assert "requests are arrays of numbers" in refused(folder, *serving)


def test_a_report_of_words(folder: Path, words: Any) -> None:
    options = ("--method", "exact_shapley", "--references", "@rows.parquet", "--samples", "2,", "-o", "words.html")
    done(folder, "report", "of_words.py:model", "words.parquet", *options)
    assert "Sample 2" in (folder / "words.html").read_text(encoding="utf-8")


# --- errors ----------------------------------------------------------------------------------

X = ("x.npy", "--target", "0", "-o", "w.npy")
METHOD = ("--method", "occlusion")
WRONG = [
    ((*FUNCTION, *X), "say how to explain it, such as --method kernel_shap"),
    ((*FUNCTION, *X, "--method", "occlusio"), "occlusion"),
    ((*FUNCTION, *X, *METHOD, "--set", "permutations=3"), "unknown parameter 'permutations'"),
    ((*FUNCTION, *X, "--method", "deeplift"), "needs the derivative of the model"),
    ((*FUNCTION, *X, *METHOD, "--baseline", "0", "--references", "@few.npy"), "not both"),
    ((*FUNCTION, *X, *METHOD, "--engine", "xla"), "unknown engine"),
    ((*FUNCTION, "none.npy", "--target", "0", "-o", "w.npy", *METHOD), "there are no samples"),
    (("own.py:estimator", *X, *METHOD), "name one of its functions, such as own.py:estimator.predict_proba"),
    (("own.py:nets", *X, *METHOD), "Similar names: net,"),
    (("own.py:failing", *X, *METHOD), "fails when it is called to make the model: OSError: no weights here"),
    (("own.py", *X, *METHOD), "name the model or the Explainer in it, as own.py:name"),
    (("own.explainer", *X), "there is no file 'own.explainer'. Give the file of an explainer"),
    (("gone.py:net", *X, *METHOD), "no file 'gone.py'"),
    (("gone:net", *X, *METHOD), "no module 'gone'"),
    (("absent.py:net", *X, *METHOD), "ModuleNotFoundError: No module named 'a_package_that_is_not_there'"),
    (("absent:net", *X, *METHOD), "the module 'absent' fails when it is imported: ModuleNotFoundError"),
    (("broken.py:net", *X, *METHOD), "broken.py, line 2"),
    (("syntax.py:net", *X, *METHOD), "SyntaxError"),
    (("ends.py:net", *X, *METHOD), "fails when it is imported: SystemExit"),
    (("own.py:explain", *X, *METHOD), "--method: 'own.py:explain' is already an Explainer"),
    (("own.py:explain", *X, "--wrt", "input", "--strict"), "--wrt, --strict: 'own.py:explain' is already an Explainer"),
    (("own.py:explain", *X, "--device", "cpu"), "--device: 'own.py:explain' is already an Explainer"),
    (("own.py:explain", *X, "--set", "window=3"), "unknown parameter 'window'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "expected"), WRONG, ids=[" ".join(some)[:60] for some, _ in WRONG])
def test_what_is_wrong_is_told(folder: Path, arguments: tuple[str, ...], expected: str) -> None:
    text = refused(folder, "run", *arguments)
    assert expected in text
    assert not list(folder.glob("w.npy*"))


def test_a_file_takes_no_options_of_models(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    explain = Explainer.compile(torch.nn.Linear(4, 2), "gradient", inputs=torch.zeros(1, 4))
    explain.save(folder / "linear.explainer")
    text = refused(folder, "run", "linear.explainer", *X, "--method", "saliency", "--engine", "eager")
    assert "--method, --engine: 'linear.explainer' is already the file of an explainer" in text


# --- serve -----------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command serves, and the limits, without a server."""
    found: dict[str, Any] = {}

    def serve_them(explainers: Any, host: str, port: int, **options: Any) -> None:
        found.update(explainers=explainers, options=options)
        serve.app(explainers)

    monkeypatch.setattr(serve, "run", serve_them)
    return found


def test_serve_takes_models_by_name(folder: Path, model: Any, served: dict[str, Any]) -> None:
    x = np.load(folder / "x.npy")
    np.save(folder / "mean.npy", x.mean(0))
    explain = Explainer.compile(model, "shapley_sampling", inputs=x[:1], baseline=x.mean(0))
    done(
        folder, "serve", *FUNCTION, "second=own.py:net.predict", "own.py:explain", "--method", "shapley_sampling",
        "--set", "permutations=3", "--set", "timeout=7", "--inputs", "float64[4]", "--baseline", "@mean.npy",
    )  # fmt: skip
    explainers = served["explainers"]
    assert list(explainers) == ["net.predict", "second", "explain"]
    assert served["options"]["timeout"] == 7
    for name, permutations in {"net.predict": 3, "second": 3, "explain": 25}.items():
        right = explain.replace(permutations=permutations)(x[:5], target=1)
        np.testing.assert_allclose(explainers[name](x[:5], target=1), right, atol=1e-12)


def test_serve_references_and_examples(folder: Path, model: Any, served: dict[str, Any]) -> None:
    x, few = np.load(folder / "x.npy"), np.load(folder / "few.npy")
    options = ("--method", "exact_shapley", "--inputs", "x.npy", "--references", "@few.npy")
    done(folder, "serve", "net=own.py:net.predict", *options)
    right = Explainer.compile(model, "exact_shapley", inputs=x[:1], baseline=References(few))(x[:5], target=1)
    np.testing.assert_allclose(served["explainers"]["net"](x[:5], target=1), right, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (FUNCTION, "say how to explain it, such as --method"),
        ((*FUNCTION, *METHOD), "give --inputs with the type and the sizes of one sample"),
        ((*FUNCTION, *FUNCTION, *METHOD, "--inputs", "float64[4]"), "two explainers are called 'net.predict'"),
        (("own.py:explain", *METHOD), "--method: 'own.py:explain' is already an Explainer"),
        (("own.py:explain", "--baseline", "0"), "--baseline is for models"),
        (("own.py:lazy",), "pass examples to compile in its module"),
        (("a/b=own.py:explain",), "cannot be served as 'a/b'"),
        ((*FUNCTION, *METHOD, "--set", "permutation=3"), "unknown parameter 'permutation'"),
        (("own.py:explain", "--set", "permutations=3"), "unknown parameter 'permutations'"),
    ],
    ids=str,
)
def test_serve_tells_what_is_wrong(
    folder: Path, served: dict[str, Any], arguments: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(folder, "serve", *arguments)


def test_a_limit_and_a_parameter_of_one_name(folder: Path, served: dict[str, Any]) -> None:
    """``serve --set`` takes both: the bare name is the server's, and the method's is written with its method."""
    pytest.importorskip("torch")
    (folder / "linear.py").write_text("import torch\nmodel = torch.nn.Linear(4, 2)\n")
    done(
        folder, "serve", "linear.py:model", "--method", "integrated_gradients", "--inputs", "float32[4]",
        "--set", "max_steps=100", "--set", "integrated_gradients.max_steps=200", "--set", "steps=9",
    )  # fmt: skip
    method = served["explainers"]["model"].method
    assert (method.max_steps, method.steps, served["options"]["max_steps"]) == (200, 9, 100)


def test_commands_share_the_options_of_models(folder: Path) -> None:
    from explainers.cli import words
    from explainers.cli.options import ModelOptions

    for command in ("compile", "run", "report", "serve"):
        assert {re.sub("^model_", "", name) for name in ModelOptions.__dataclass_fields__} <= set(
            words.options(command)
        )
