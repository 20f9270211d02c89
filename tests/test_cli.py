"""The command ``explainers``, run as users run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import explainers
from explainers import Explainer, References, methods
from explainers.cli import compare, evaluate, info, report, samples  # noqa: F401, add their commands to the app
from explainers.cli.commands import app
from explainers.errors import InputError

ROOT = Path(__file__).parents[1]
MODEL = """
import torch
torch.manual_seed(0)
def model():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
class Two(torch.nn.Module):
    def forward(self, image, wave):
        return torch.tanh(image.sum((1, 2))[:, None] * wave)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model's source, samples, and saved explainers."""
    result = tmp_path_factory.mktemp("cli")
    (result / "net.py").write_text(MODEL)
    generator = np.random.default_rng(0)
    np.save(result / "x.npy", generator.normal(size=(300, 4)).astype("float32"))
    np.savez(result / "two.npz", image=generator.normal(size=(9, 2, 3)), wave=generator.normal(size=(9, 3)))
    done(result, "compile", "net.py:model", "integrated_gradients", "-o", "ig.explainer", "--inputs", "float32[4]")
    options = ("--inputs", "x.npy", "--set", "permutations=4")
    done(result, "compile", "net.py:model", "shapley_sampling", "-o", "shapley.explainer", *options)
    options = ("--inputs", "image=float64[2,3]", "--inputs", "wave=float64[3]")
    done(result, "compile", "net.py:Two", "saliency", "-o", "two.explainer", "--dtype", "float64", *options)
    return result


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the command in this process; return its exit status and all its output."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    finally:
        os.chdir(before)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def done(folder: Path, *arguments: str) -> str:
    status, output = run(folder, *arguments)
    assert status == 0, output
    return output


def refused(folder: Path, *arguments: str) -> str:
    status, output = run(folder, *arguments)
    assert status in (1, 2), output
    assert "Traceback" not in output
    return " ".join(output.split())


def test_help_has_examples(folder: Path) -> None:
    assert "compile" in done(folder, "--help")
    for command in ("compile", "info", "run", "report", "serve", "bench-call"):
        assert "Example" in done(folder, command, "--help")


def test_info(folder: Path) -> None:
    text = done(folder, "info", "ig.explainer", "--coverage")
    assert "IntegratedGradients(steps=50" in text
    assert "float32[batch, 4]" in text
    assert "torchscript" in text
    data = json.loads(done(folder, "info", "ig.explainer", "--json"))
    assert data["backend"] == "torch"
    assert data["placeholders"]["explain"][:2] == ["input_input", "mask"] or data["placeholders"]["explain"]
    assert data["coverage"]


def test_info_loads_no_framework(folder: Path) -> None:
    code = (
        "import sys; sys.argv[1:] = ['info', 'ig.explainer']\n"
        "from explainers.cli import main\n"
        "try: main()\nexcept SystemExit as e: assert not e.code\n"
        "assert 'torch' not in sys.modules and 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("block", [None, "7", "300"])
def test_run_gives_what_a_call_gives(folder: Path, block: str | None) -> None:
    x = np.load(folder / "x.npy")
    extra = ("--overwrite", "--block", block) if block else ("--overwrite",)
    done(
        folder,
        "run",
        "ig.explainer",
        "x.npy",
        "--target",
        "1",
        "-o",
        "ig.npy",
        "--overwrite",
        "--set",
        "steps=20",
        *extra,
    )
    explain = Explainer.load(folder / "ig.explainer").replace(steps=20)
    np.testing.assert_allclose(np.load(folder / "ig.npy"), explain(x, target=1), atol=1e-6)
    done(
        folder,
        "run",
        "shapley.explainer",
        "x.npy",
        "--target",
        "max",
        "--seed",
        "3",
        "-o",
        "sh.npy",
        "--overwrite",
        *extra,
    )
    expected = Explainer.load(folder / "shapley.explainer")(x, target="max", seed=3)
    np.testing.assert_allclose(np.load(folder / "sh.npy"), expected, atol=1e-6)
    assert not (folder / "sh.npy.part").exists()


def test_targets_and_baselines_from_files(folder: Path) -> None:
    x = np.load(folder / "x.npy")
    generator = np.random.default_rng(1)
    targets, baselines = generator.integers(0, 3, len(x)), generator.normal(size=x.shape).astype("float32")
    np.save(folder / "targets.npy", targets)
    np.save(folder / "baselines.npy", baselines)
    np.save(folder / "one.npy", baselines[0])
    explain = Explainer.load(folder / "ig.explainer")
    for name, given in (("baselines", baselines), ("one", baselines[0])):
        options = ("--target", "@targets.npy", "--baseline", f"@{name}.npy", "--block", "32", "-o", f"{name}_out.npy")
        done(folder, "run", "ig.explainer", "x.npy", *options)
        result = np.load(folder / f"{name}_out.npy")
        np.testing.assert_allclose(result, explain(x, target=targets, baseline=given), atol=1e-6)


def test_a_baseline_for_each_sample_is_said_by_its_option(folder: Path) -> None:
    """For blocks of any size, --baseline is never a set, and as many weights as samples could be labels."""
    x = np.load(folder / "x.npy")[:7]
    baselines = np.random.default_rng(2).normal(size=x.shape).astype("float32")
    np.save(folder / "seven.npy", x)
    np.save(folder / "each.npy", baselines)
    options = ("--target", "1", "--baseline", "@each.npy", "--block", "3", "-o", "each_out.npy")
    done(folder, "run", "shapley.explainer", "seven.npy", *options)
    explain = Explainer.load(folder / "shapley.explainer")
    expected = explain(x, target=1, baseline=References(baselines[:, None], per_sample=True))
    np.testing.assert_allclose(np.load(folder / "each_out.npy"), expected, atol=1e-6)
    np.save(folder / "weights.npy", np.array([0.0, 1.0, 0.0]))
    done(folder, "run", "shapley.explainer", "seven.npy", "--target", "@weights.npy", "--block", "3", "-o", "w_out.npy")
    np.testing.assert_allclose(np.load(folder / "w_out.npy"), explain(x, target=1), atol=1e-6)
    np.save(folder / "three.npy", x[:3])
    message = refused(
        folder, "run", "shapley.explainer", "three.npy", "--target", "@weights.npy", "-o", "three_out.npy"
    )
    assert "may be weights of the output" in message


def test_several_inputs(folder: Path) -> None:
    done(folder, "run", "two.explainer", "two.npz", "--target", "2", "-o", "scores.npz", "--block", "4")
    with np.load(folder / "two.npz") as x, np.load(folder / "scores.npz") as scores:
        expected = Explainer.load(folder / "two.explainer")(dict(x), target=2)
        assert set(scores) == {"image", "wave"}
        for name in expected:
            np.testing.assert_allclose(scores[name], expected[name])
    assert "npz or .zarr" in refused(folder, "run", "two.explainer", "two.npz", "--target", "2", "-o", "scores.npy")


def test_tables_and_zarr(folder: Path) -> None:
    zarr = pytest.importorskip("zarr")
    pandas = pytest.importorskip("pandas")
    x = np.load(folder / "x.npy")
    expected = Explainer.load(folder / "ig.explainer")(x, target=0)
    pandas.DataFrame(x, columns=list("abcd")).to_parquet(folder / "x.parquet")
    done(folder, "run", "ig.explainer", "x.parquet", "--target", "0", "-o", "scores.parquet", "--columns", "a,b,c,d")
    result = pandas.read_parquet(folder / "scores.parquet")
    assert list(result) == list("abcd")
    np.testing.assert_allclose(result.to_numpy(), expected, atol=1e-6)
    store = zarr.open_array(str(folder / "x.zarr"), mode="w", shape=x.shape, dtype=x.dtype)
    store[:] = x
    for _ in range(2):  # over what is there
        done(folder, "run", "ig.explainer", "x.zarr", "--target", "0", "-o", "scores.zarr", "--overwrite")
    np.testing.assert_allclose(zarr.open_array(str(folder / "scores.zarr"), mode="r")[:], expected, atol=1e-6)


def test_columns_are_chosen_and_read_from_csv(folder: Path) -> None:
    pandas = pytest.importorskip("pandas")
    x = np.load(folder / "x.npy")
    expected = Explainer.load(folder / "ig.explainer")(x, target=0)
    frame = pandas.DataFrame(x.astype(np.float64), columns=list("dcba")).assign(label=1, name="x")
    frame.to_csv(folder / "more.csv", index=False)
    frame.to_parquet(folder / "more.parquet", row_group_size=70)
    for name in ("more.csv", "more.parquet"):
        command = ("run", "ig.explainer", name, "--target", "0", "-o", "chosen.parquet", "--overwrite")
        done(folder, *command, "--columns", "d,c,b,a", "--block", "64")
        result = pandas.read_parquet(folder / "chosen.parquet")
        assert list(result) == list("dcba")
        np.testing.assert_allclose(result.to_numpy(), expected, atol=1e-5)
    assert "lacks the columns 'e'" in refused(folder, *command, "--columns", "d,c,b,e")
    (folder / "broken.csv").write_text("a,b\n1,2\n3\n")
    text = refused(folder, "run", "ig.explainer", "broken.csv", "--target", "0", "-o", "no.npy")
    assert "'broken.csv' cannot be read" in text
    assert "not of a known kind" in refused(folder, "run", "ig.explainer", "x.npy", "--target", "0", "-o", "a.csv")


def test_columns_of_lists_are_inputs(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    x = np.load(folder / "x.npy")
    lists = pyarrow.array(list(x))
    parquet.write_table(pyarrow.table({"input": lists}), folder / "lists.parquet", row_group_size=33)
    done(folder, "run", "ig.explainer", "lists.parquet", "--target", "0", "-o", "of_lists.npy", "--block", "50")
    expected = Explainer.load(folder / "ig.explainer")(x, target=0)
    np.testing.assert_allclose(np.load(folder / "of_lists.npy"), expected, atol=1e-6)
    ragged = pyarrow.table({"input": pyarrow.array([[1.0, 2.0], [3.0]])})
    parquet.write_table(ragged, folder / "ragged.parquet")
    text = refused(folder, "run", "ig.explainer", "ragged.parquet", "--target", "0", "-o", "no.npy")
    assert "lists of different lengths" in text


def write_with_labels(folder: Path, kind: str, x: Any) -> Path:
    """Samples with a split (text) and an age (a number that some lack) of each."""
    pandas, pyarrow, zarr = map(pytest.importorskip, ("pandas", "pyarrow", "zarr"))
    from pyarrow import parquet

    split = np.where(np.arange(len(x)) % 3 == 0, "test", "train")
    age = np.where(np.arange(len(x)) % 10 == 0, np.nan, np.arange(len(x)) % 50)
    path = folder / f"labelled{kind}"
    if kind in (".csv", ".parquet"):
        frame = pandas.DataFrame(x.astype(np.float64), columns=list("dcba")).assign(split=split, age=age)
        frame.to_csv(path, index=False) if kind == ".csv" else frame.to_parquet(path, row_group_size=70)
    elif kind == " lists.parquet":
        columns = {"input": pyarrow.array(list(x)), "split": split, "age": age}
        parquet.write_table(pyarrow.table(columns), path, row_group_size=33)
    elif kind == ".npz":
        np.savez(path, input=x, split=split, age=age)
    else:
        group = zarr.open_group(str(path), mode="w")
        for name, array in (("input", x), ("age", age), ("split", np.arange(len(x)) % 3)):
            group.create_array(name, data=array)
    return path


@pytest.mark.parametrize("kind", [".csv", ".parquet", " lists.parquet", ".npz", ".zarr"])
def test_where_chooses_samples(folder: Path, kind: str) -> None:
    x = np.load(folder / "x.npy")
    path, number = write_with_labels(folder, kind, x), np.arange(len(x))
    split = "split=0" if kind == ".zarr" else "split=test"
    kept = (number % 3 == 0) & (number % 10 != 0) & (number % 50 >= 7)
    targets = number % 2
    np.save(folder / "targets.npy", targets)
    chosen = ["--where", split, "--where", "age>=7", "-o", "chosen.npy", "--overwrite", "--block", "16"]
    columns = ["--columns", "d,c,b,a"] if kind in (".csv", ".parquet") else []
    text = done(folder, "run", "ig.explainer", path.name, "--target", "@targets.npy", *columns, *chosen)
    assert f"{kept.sum()} of {len(x)} samples" in text
    expected = Explainer.load(folder / "ig.explainer")(x[kept], target=targets[kept])
    np.testing.assert_allclose(np.load(folder / "chosen.npy"), expected, atol=1e-5)


def test_where_that_cannot_be(folder: Path) -> None:
    x = np.load(folder / "x.npy")
    path = write_with_labels(folder, ".npz", x)
    for condition, message in {
        "split": "give NAME=VALUE", "sex=1": "no column or array 'sex'; they have", "age=old": "'old' is not a number",
        "input>0": "one value per sample", "age>1000": "none of the 300 samples has age>1000",
    }.items():  # fmt: skip
        command = ("run", "ig.explainer", path.name, "--target", "0", "-o", "no.npy", "--where", condition)
        assert message in refused(folder, *command), condition
    assert not (folder / "no.npy").exists()


def test_conditions_compare_numbers_as_numbers_and_text_as_text() -> None:
    def holds(text: str, column: Any) -> list[bool]:
        return list(samples.Condition.parse(text).holds(np.asarray(column)))

    assert holds("n<10", [9, 10, 100]) == [True, False, False]
    assert holds("n != 1.5", [1.5, 2, np.nan]) == [False, True, False]
    assert holds("flag=true", [True, False]) == [True, False]
    assert holds("name>=b", np.array(["a", "b", None, "c"], object)) == [False, True, False, True]
    assert holds("name=a=b", np.array(["a=b", "a"])) == [True, False]
    with pytest.raises(InputError, match="not numbers or text"):
        holds("day=1", np.array(["2020-01-01"], "datetime64[D]"))


def test_an_interrupted_run_is_taken_up(folder: Path) -> None:
    np.save(folder / "many.npy", np.random.default_rng(0).normal(size=(20000, 4)).astype("float32"))
    command = ["run", "shapley.explainer", "many.npy", "--target", "1", "-o", "many_scores.npy", "--block", "16"]
    code = "from explainers.cli import main; main()"
    options = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'backends'}"}}
    state = folder / "many_scores.npy.part" / "state.json"
    with subprocess.Popen(
        [sys.executable, "-c", code, *command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, **options
    ) as process:
        start = time.monotonic()
        while (
            not (state.exists() and json.loads(state.read_text())["done"])
            and time.monotonic() - start < 60
            and process.poll() is None
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "resumes from there" in text
    assert not (folder / "many_scores.npy").exists()
    finished_count = json.loads(state.read_text())["done"]
    assert 0 < finished_count < 20000
    assert "another run" in refused(folder, *command, "--seed", "5")
    done(folder, *command)
    expected = Explainer.load(folder / "shapley.explainer")(np.load(folder / "many.npy"), target=1)
    np.testing.assert_allclose(np.load(folder / "many_scores.npy"), expected, atol=1e-6)


def test_bench_call(folder: Path) -> None:
    text = done(folder, "bench-call", "ig.explainer", "--batch-size", "1", "--batch-size", "3", "--seconds", "0.05")
    assert "median ms" in text


def test_compile_keras_and_saved_model(folder: Path) -> None:
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own
        model.save(folder / "net.keras")
        model.export(folder / "saved", verbose=False)
    for source in ("net.keras", "saved"):
        done(folder, "compile", source, "saliency", "-o", "keras.explainer")
        assert Explainer.load(folder / "keras.explainer").method == methods.Saliency()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("compile", "net.py:modle", "saliency", "-o", "a.explainer"), "Did you mean 'model'"),
        (("compile", "nowhere:model", "saliency", "-o", "a.explainer"), "no module 'nowhere'"),
        (("compile", "net.py:model", "salience", "-o", "a.explainer"), "Similar names: saliency"),
        (("compile", "net.py:model", "saliency", "-o", "a.explainer"), "inputs"),
        (("compile", "net.py:model", "saliency", "-o", "a.explainer", "--inputs", "float32[1.5]"), "float32[1,28,28]"),
        (("compile", "net.py:model", "saliency", "-o", "no/a.explainer", "--inputs", "float32[4]"), "no/"),
        (("compile", "net.py:model", "integrated_gradients", "-o", "a.explainer", "--set", "stesp=3"), "'steps'"),
        (("compile", "net.py:model", "saliency", "-o", "a.explainer", "--inputs", "float32[4]", "--aot"), "inductor"),
        (("info", "absent.explainer"), "does not exist"),
        (("info", "net.py"), "refused"),
        (("run", "ig.explainer", "absent.npy", "-o", "a.npy"), "there is no file 'absent.npy'"),
        (("run", "ig.explainer", "x.npy", "-o", "a.txt", "--target", "0"), "'a.txt' is not of a known kind"),
        (("run", "ig.explainer", "x.npy", "-o", "a.npy", "--target", "9"), "target 9 at position 0"),
        (("run", "ig.explainer", "x.npy", "-o", "a.npy"), "no target given"),
        (
            ("run", "ig.explainer", "two.npz", "-o", "a.npy", "--target", "0"),
            "Name the arrays of an npz or zarr",
        ),
        (("run", "ig.explainer", "x.npy", "-o", "a.npy", "--target", "0", "--set", "permutations=3"), "'permutations'"),
        (("serve", "ig.explainer", "--host", "0.0.0.0"), "can be reached from other machines"),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_told(folder: Path, arguments: tuple[str, ...], expected: str) -> None:
    assert expected in refused(folder, *arguments)
    assert not (folder / "a.npy").exists()
    assert not (folder / "a.explainer").exists()


def test_report_shows_the_samples_of_a_run(folder: Path) -> None:
    x = np.load(folder / "x.npy")
    options = ("--samples", "7,3", "--names", "a,b,c,<d>", "--classes", "cat,dog,cow", "--kind", "bars")
    done(folder, "report", "ig.explainer", "x.npy", "--target", "1", "-o", "report.html", *options)
    page = (folder / "report.html").read_text(encoding="utf-8")
    result = Explainer.load(folder / "ig.explainer").explanation(x[[7, 3]], target=1)
    assert page.count("<img") == 2
    assert "Sample 7: target dog" in page
    assert f"{result.outputs[0, 1]:.3g}".replace("-", "−") in page
    assert "2 samples" in done(
        folder, "report", "two.explainer", "two.npz", "--target", "0", "-o", "r.html", "--samples", "2"
    )


def test_report_draws_as_a_run_of_all_samples_does(folder: Path) -> None:
    targets = np.arange(300) % 3
    np.save(folder / "which.npy", targets)
    extra = ("--target", "@which.npy", "--seed", "5")
    done(folder, "report", "shapley.explainer", "x.npy", *extra, "-o", "report.html", "--samples", "11,")
    x = np.load(folder / "x.npy")
    result = Explainer.load(folder / "shapley.explainer").explanation(x, target=targets, seed=5)
    top = int(np.abs(result.attributions[11]).argmax())
    page = (folder / "report.html").read_text(encoding="utf-8")
    message = f"largest at {top}: {result.attributions[11, top]:.3g}".replace("-", "−")
    assert message in page


def test_report_says_what_is_wrong(folder: Path) -> None:
    arguments = ("report", "ig.explainer", "x.npy", "--target", "1", "-o", "report.html")
    assert "waterfall" in refused(folder, *arguments, "--kind", "pie")
    assert "0 to 299" in refused(folder, *arguments, "--samples", "300,")
    assert "--samples takes a number" in refused(folder, *arguments, "--samples", "all")
    assert "4 features" in refused(folder, *arguments, "--names", "a,b")
    assert "no file" in refused(folder, *arguments, "--names", "@none.txt")
    assert "does not exist" in refused(folder, *arguments[:-1], "nowhere/report.html")


def test_a_mask_for_all_samples_is_not_cut(folder: Path) -> None:
    """With as many samples as outputs, real numbers are a mask, and whole numbers are one target for each sample."""
    x = np.load(folder / "x.npy")[:3]
    explain = Explainer.load(folder / "ig.explainer")
    np.save(folder / "three.npy", x)
    for target in (np.array([0.0, 0.5, 2.0]), np.array([2, 0, 1]), np.eye(3)[[1, 1, 0]]):
        np.save(folder / "target.npy", target)
        done(
            folder,
            "run",
            "ig.explainer",
            "three.npy",
            "--target",
            "@target.npy",
            "--block",
            "2",
            "-o",
            "masked.npy",
            "--overwrite",
        )
        np.testing.assert_allclose(np.load(folder / "masked.npy"), explain(x, target=target), atol=1e-6)


def test_an_output_replaces_nothing_unasked(folder: Path) -> None:
    import zarr

    (folder / "kept.npy").write_bytes(b"years of work")
    (folder / "folder.npy" / "inside").mkdir(parents=True)
    (folder / "folder.zarr").mkdir()
    (folder / "folder.zarr" / "notes.txt").write_text("more of it")
    x = np.load(folder / "x.npy")
    zarr.save_array(str(folder / "store.zarr"), x)
    (folder / "link.npy").symlink_to(folder / "x.npy")
    (folder / "in_the_way.npy.part").mkdir()
    (folder / "in_the_way.npy.part" / "notes.txt").write_text("mine")
    for given, output, flags, text in (
        ("x.npy", "kept.npy", (), "'kept.npy' exists"),
        ("x.npy", "folder.npy", ("--overwrite",), "a folder with other things in it"),
        ("x.npy", "folder.zarr", ("--overwrite",), "a folder with other things in it"),
        ("x.npy", "x.npy", ("--overwrite",), "would replace the input 'x.npy'"),
        ("x.npy", "link.npy", ("--overwrite",), "would replace the input 'x.npy'"),
        ("store.zarr", "store.zarr", ("--overwrite",), "would replace the input 'store.zarr'"),
        ("store.zarr", "store.zarr/a.npy", (), "would replace the input 'store.zarr'"),
        ("x.npy", "in_the_way.npy", ("--restart",), "is in the way"),
    ):
        arguments = ("run", "ig.explainer", given, "--target", "0", "-o", output, *flags)
        assert text in refused(folder, *arguments), arguments
    assert (folder / "kept.npy").read_bytes() == b"years of work"
    assert (folder / "folder.zarr" / "notes.txt").exists()
    assert (folder / "folder.npy" / "inside").is_dir()
    assert (folder / "in_the_way.npy.part" / "notes.txt").exists()
    np.testing.assert_array_equal(np.load(folder / "x.npy"), x)
    np.testing.assert_array_equal(zarr.open_array(str(folder / "store.zarr"), mode="r")[:], x)
    done(folder, "run", "ig.explainer", "x.npy", "--target", "0", "-o", "kept.npy", "--overwrite")
    assert np.load(folder / "kept.npy").shape == x.shape


def test_a_full_disk_is_an_error_before_the_first_sample(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    text = refused(folder, "run", "ig.explainer", "x.npy", "--target", "0", "-o", "full.npy")
    assert "no space for" in text
    assert not (folder / "full.npy.part").exists()
    assert not (folder / "full.npy").exists()


def test_a_run_that_fails_at_once_leaves_nothing(folder: Path) -> None:
    refused(folder, "run", "ig.explainer", "x.npy", "--target", "9", "-o", "nine.npy")
    assert not list(folder.glob("nine.npy*"))
    done(folder, "run", "ig.explainer", "x.npy", "--target", "1", "-o", "nine.npy")


def test_outputs_that_are_no_plain_files(folder: Path) -> None:
    """Links and permissions are kept; a device or a pipe is written to if the format allows it, and never replaced."""
    x = np.load(folder / "x.npy")
    (folder / "far").mkdir()
    (folder / "out.npy").symlink_to("far/real.npy")
    (folder / "far" / "real.npy").write_bytes(b"old")
    (folder / "far" / "real.npy").chmod(0o640)
    arguments = ("run", "ig.explainer", "x.npy", "--target", "0", "-o")
    assert "'out.npy' exists" in refused(folder, *arguments, "out.npy")
    done(folder, *arguments, "out.npy", "--overwrite")
    assert (folder / "out.npy").is_symlink()
    assert np.load(folder / "far" / "real.npy").shape == x.shape
    assert (folder / "far" / "real.npy").stat().st_mode & 0o777 == 0o640
    (folder / "dangling.npy").symlink_to("far/new.npy")
    done(folder, *arguments, "dangling.npy")
    assert np.load(folder / "far" / "new.npy").shape == x.shape
    os.mkfifo(folder / "pipe.npy")
    assert "is a device or a pipe" in refused(folder, *arguments, "pipe.npy", "--overwrite")
    assert sorted(path.name for path in (folder / "far").iterdir()) == ["new.npy", "real.npy"]
    page = ("report", "ig.explainer", "x.npy", "--target", "0", "--samples", "1", "-o")
    for output in ("folder.html", "none/report.html"):
        (folder / "folder.html").mkdir(exist_ok=True)
        assert "folder" in refused(folder, *page, output)
    assert "1 samples" in done(folder, *page, "/dev/null")
    done(folder, "compile", "net.py:model", "gradient", "--inputs", "float32[4]", "-o", "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_a_store_that_cannot_be_replaced_is_put_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zarr

    x = np.load(folder / "x.npy")
    zarr.save_array(str(folder / "old.zarr"), x)
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(source).name == "made.zarr":
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert "No space" in refused(
        folder, "run", "ig.explainer", "x.npy", "--target", "0", "-o", "old.zarr", "--overwrite"
    )
    np.testing.assert_array_equal(zarr.open_array(str(folder / "old.zarr"), mode="r")[:], x)


# --- columns ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def named(folder: Path) -> Path:
    """A folder with tables in two column orders, and explainers with and without column names."""
    pandas = pytest.importorskip("pandas")
    x = np.load(folder / "x.npy")[:20]
    frame = pandas.DataFrame(x, columns=list("abcd"))
    frame.to_parquet(folder / "abcd.parquet")
    frame[list("dcba")].to_parquet(folder / "dcba.parquet")
    frame[list("dcba")].iloc[:1].to_parquet(folder / "first.parquet")
    frame[list("dcb")].to_parquet(folder / "dcb.parquet")
    frame.assign(e=1.0).to_parquet(folder / "abcde.parquet")
    frame.assign(b="word").to_parquet(folder / "words.parquet")
    frame.astype({"a": int}).to_parquet(folder / "integers.parquet")
    options = ("compile", "net.py:model", "integrated_gradients", "--inputs")
    done(folder, *options, "abcd.parquet", "-o", "named.explainer", "--baseline", "@first.parquet")
    done(folder, *options, "float32[4]", "-o", "told.explainer", "--columns", "a,b,c,d")
    return folder


def shares(path: Path) -> Any:
    return pytest.importorskip("pandas").read_parquet(path)


@pytest.mark.parametrize("explainer", ["named", "told", "ig"])
def test_columns_go_by_name(named: Path, explainer: str) -> None:
    """The same samples in two column orders get the same attributions by name, in the order of their file."""
    pandas = pytest.importorskip("pandas")
    x = np.load(named / "x.npy")[:20]
    baseline = x[:1] * 0.5
    pandas.DataFrame(baseline[:, ::-1], columns=list("dcba")).to_parquet(named / "base.parquet")
    right = Explainer.load(named / "ig.explainer")(x, target=0, baseline=baseline)
    extra = ("--columns", "a,b,c,d") if explainer == "ig" else ()
    extra = (*extra, "--target", "0", "--baseline", "@base.parquet", "--overwrite", "--block", "8", "-o")
    for table in ("abcd", "dcba"):
        text = done(named, "run", f"{explainer}.explainer", f"{table}.parquet", *extra, "out.parquet")
        assert "warning" not in text
        result = shares(named / "out.parquet")
        assert list(result) == list(table)
        np.testing.assert_allclose(result[list("abcd")], right, atol=1e-6)
        done(named, "run", f"{explainer}.explainer", f"{table}.parquet", *extra, "out.npy")
        np.testing.assert_allclose(np.load(named / "out.npy"), right[:, :: -1 if table == "dcba" else 1], atol=1e-6)


@pytest.mark.parametrize("table", ["abcd", "dcba"])
@pytest.mark.parametrize("command", ["run", "report"])
def test_columns_need_names_on_both_sides(named: Path, table: str, command: str) -> None:
    """An explainer without column names refuses a table with names: by position, the attributions would be wrong."""
    output = {"run": "none.parquet", "report": "none.html"}[command]
    text = refused(named, command, "ig.explainer", f"{table}.parquet", "--target", "0", "-o", output)
    assert "does not know the model's order of columns" in text
    assert f"--columns {','.join(table)} if it is the order of the table" in text
    assert not list(named.glob("none.*"))


def test_tables_without_names_go_by_place(named: Path) -> None:
    pandas = pytest.importorskip("pandas")
    x = np.load(named / "x.npy")[:20]
    frame = pandas.DataFrame(x)
    frame.columns = list(map(str, frame.columns))
    frame.to_parquet(named / "counted.parquet")
    right = Explainer.load(named / "ig.explainer")(x, target=0)
    for explainer in ("ig", "told"):
        done(named, "run", f"{explainer}.explainer", "counted.parquet", "--target", "0", "-o", "c.npy", "--overwrite")
        np.testing.assert_allclose(np.load(named / "c.npy"), right, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("named.explainer", "dcb.parquet"), "the table of input 'input' lacks the columns 'a'"),
        (("named.explainer", "abcde.parquet"), "the table of input 'input' has the unknown 'e'"),
        (("named.explainer", "words.parquet"), "column 'b' of the table of input 'input' has dtype"),
        (("ig.explainer", "words.parquet"), "column 'b' of the table of input 'input' has dtype"),
        (("ig.explainer", "dcba.parquet", "--columns", "a,b,c"), "3 columns for samples of shape (4,)"),
        (("ig.explainer", "dcba.parquet", "--columns", "a,b,c,c"), "a name of its own"),
        (("ig.explainer", "dcba.parquet", "--columns", "a,b,c,x"), "lacks the columns 'x' and has the unknown 'd'"),
        (("named.explainer", "dcba.parquet", "--columns", "d,c,b,a"), "has the columns 'a', 'b', 'c', 'd'"),
        (("ig.explainer", "dcba.parquet", "--columns", "wave=a,b,c,d"), "unknown input 'wave'"),
        (("ig.explainer", "dcba.parquet", "--columns", "@absent.txt"), "no file 'absent.txt'"),
        (("named.explainer", "abcd.parquet", "--baseline", "@dcb.parquet"), "the baseline of 'input' lacks the"),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_are_refused(named: Path, arguments: tuple[str, ...], expected: str) -> None:
    assert expected in refused(named, "run", *arguments, "--target", "0", "-o", "none.parquet")
    assert not list(named.glob("none.parquet*"))


def test_columns_elsewhere(named: Path) -> None:
    """Integer columns work; a report and ``info`` show the column names; a comparison aligns its baseline by name."""
    done(named, "run", "named.explainer", "integers.parquet", "--target", "0", "-o", "integers.npy")
    options = ("--target", "0", "-o", "columns.html", "--samples", "1", "--kind", "bars")
    for extra in (("named.explainer",), ("ig.explainer", "--columns", "a,b,c,d")):
        done(named, "report", extra[0], "dcba.parquet", *options, *extra[1:])
        assert "largest at" in (named / "columns.html").read_text(encoding="utf-8")
    assert "columns of input" in done(named, "info", "named.explainer")
    assert json.loads(done(named, "info", "told.explainer", "--json"))["columns"] == {"input": list("abcd")}
    one = shares(named / "abcd.parquet").iloc[:1]
    one[list("dcba")].to_parquet(named / "one.parquet")
    np.save(named / "one.npy", one.to_numpy())
    tables = []
    for baseline in ("@one.parquet", "@one.npy"):
        arguments = ("--methods", "integrated_gradients,captum:IntegratedGradients", "--inputs", "abcd.parquet")
        done(
            named, "compare", "net.py:model", *arguments, "--baseline", baseline, "--target", "0", "--seconds", "0",
            "--json", "compared.json",
        )  # fmt: skip
        tables.append(json.loads((named / "compared.json").read_text())["pairs"])
    assert tables[0] == tables[1]


def test_baselines_of_several_inputs(folder: Path) -> None:
    with np.load(folder / "two.npz") as x:
        arguments = dict(x)
    for count in (1, 9):
        base = {name: array[:count] * 0.5 for name, array in arguments.items()}
        np.savez(folder / "bases.npz", **base)
        options = ("--inputs", "image=float64[2,3]", "--inputs", "wave=float64[3]", "--dtype", "float64")
        done(folder, "compile", "net.py:Two", "integrated_gradients", "-o", "two_ig.explainer", *options)
        done(
            folder, "run", "two_ig.explainer", "two.npz", "--target", "2", "-o", "based.npz", "--block", "4",
            "--baseline", "@bases.npz", "--overwrite",
        )  # fmt: skip
        expected = Explainer.load(folder / "two_ig.explainer")(arguments, target=2, baseline=base)
        with np.load(folder / "based.npz") as found:
            for name in expected:
                np.testing.assert_allclose(found[name], expected[name])


# --- the command's own words -----------------------------------------------------------------

PYTHON = re.compile(r"\.astype|=True|Explainer\.|\b(target|baseline|inputs|output|wrt|device|dtype|kind)=|\[None\]")


@pytest.fixture(scope="module")
def wrong(named: Path) -> Path:
    """A folder with inputs that do not fit the explainers."""
    np.save(named / "nan.npy", np.full((70, 4), np.nan, "float32"))
    late = np.load(named / "x.npy")[:70].copy()
    late[67] = np.inf
    np.save(named / "late.npy", late)
    np.save(named / "int.npy", np.ones((2, 4), int))
    np.save(named / "one.npy", np.ones(4, "float32"))
    np.save(named / "wide.npy", np.ones((2, 5), "float32"))
    np.savez(named / "whatever.npz", samples=np.load(named / "x.npy"))
    np.savez(named / "misnamed.npz", picture=np.ones((2, 2, 3)), wave=np.ones((2, 3)))
    np.save(named / "late_targets.npy", np.array([0] * 66 + [9] * 4))
    (named / "skl.py").write_text(
        "from sklearn.linear_model import LinearRegression\nimport numpy as np\n"
        "def predict(x):\n    return x.sum(axis=1)\n"
        "model = LinearRegression().fit(np.eye(4), np.arange(4))\n"
    )
    return named


RUN = ("run", "ig.explainer")
X = (*RUN, "x.npy", "--target")
NEW = ("compile", "net.py:model", "saliency", "--inputs", "float32[4]")
REPORT = ("report", "ig.explainer", "x.npy", "--target", "0", "--kind")
WRONG = [
    ((*RUN, "nan.npy", "--target", "0"),
     "error: input 'input': NaN in sample 0 of 70 and 69 more. Clean it, or pass --allow-nonfinite to let it through."),
    ((*RUN, "late.npy", "--target", "0", "--block", "32"),
     "error in the samples 64 to 69 of 70: input 'input': infinity in sample 67 of 70. Clean it, or pass --allow"),
    ((*X, "9", "--block", "32"), "error in the samples 0 to 31 of 300: target 9 at position 0 is out of range"),
    ((*RUN, "late.npy", "--target", "@late_targets.npy", "--block", "64", "--allow-nonfinite"),
     "error in the samples 64 to 69 of 70: target 9 at position 66 is out of range"),
    ((*RUN, "int.npy", "--target", "0"), "store the numbers of its file as float32"),
    ((*RUN, "one.npy", "--target", "0"), "A file's first axis is that of the samples"),
    ((*RUN, "wide.npy", "--target", "0"), "has shape (2, 5), the model takes"),
    ((*RUN, "x.npy"), "Give --target 0 (the same for all), --target max, or --target @file.npy with"),
    ((*X, "all"), "--target all needs a forward-only method"),
    ((*X, "0", "--device", "nowhere"), "there is no device 'nowhere' for torch"),
    (("run", "two.explainer", "misnamed.npz", "--target", "0"), "the file has the arrays 'picture', 'wave'"),
    (("compile", "net.py:model", "saliency"), "give --inputs with the type and the sizes of one sample"),
    (("compile", "net.py:Two", "saliency", "--inputs", "image=int64[2,3]", "--inputs", "wave=int64[3]"), "Give --wrt"),
    ((*NEW, "--aot"), "--aot compiles ahead of time"),
    ((*NEW, "--dtype", "float8"), "dtype must be"),
    ((*NEW, "--batch-size", "0"), "--batch-size must be"),
    ((*NEW, "--wrt", "9.weight"), "9.weight"),
    ((*NEW, "--device", "nowhere"), "there is no device 'nowhere' for torch"),
    ((*NEW, "--backend", "numpy"), "cannot be compiled to a file"),
    (("compile", "ig.explainer", "gradient"), "'ig.explainer' is an explainer already, of integrated_gradients"),
    (("compile", "skl.py:predict", "kernel_shap"), "explainers run skl.py:predict --method kernel_shap"),
    (("compile", "skl.py:model", "kernel_shap"), "explainers run skl.py:model.predict --method kernel_shap"),
    (("compile", "skl.py:predict", "kernel_shap", "--inputs", "x.npy"), "cannot be compiled to a file"),
    (("compare", "ig.explainer", "--methods", "gradient", "--inputs", "x.npy"), "is an explainer already"),
    (("compare", "net.py:model", "--methods", "saliency", "--inputs", "x.npy", "--seconds", "0"), "Give --target 0"),
    (("compare", "net.py:model", "--methods", "saliency", "--inputs", "nan.npy", "--target", "0", "--seconds", "0"),
     "NaN in sample 0 of 70 and 69 more. Clean it."),
    ((*REPORT, "tokens"), "compile with --wrt the embedding and --per-token"),
    ((*REPORT, "logo"), "--names"),
]  # fmt: skip
OUTPUTS = {"run": ("-o", "w.npy"), "compile": ("-o", "w.explainer"), "report": ("-o", "w.html"), "compare": ()}


@pytest.mark.parametrize(("arguments", "expected"), WRONG, ids=[" ".join(some)[:70] for some, _ in WRONG])
def test_errors_speak_the_command(wrong: Path, arguments: tuple[str, ...], expected: str) -> None:
    text = refused(wrong, *arguments, *OUTPUTS[arguments[0]])
    shutil.rmtree(wrong / "w.npy.part", ignore_errors=True)  # left by blocks that succeeded
    assert expected in text
    assert not PYTHON.search(text), text
    assert not list(wrong.glob("w.*"))


def test_a_single_array_may_have_any_name(wrong: Path) -> None:
    done(wrong, "run", "ig.explainer", "whatever.npz", "--target", "0", "-o", "any.npy")
    right = Explainer.load(wrong / "ig.explainer")(np.load(wrong / "x.npy"), target=0)
    np.testing.assert_allclose(np.load(wrong / "any.npy"), right, atol=1e-6)


def test_functions_are_told_before_anything_is_computed(wrong: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*arguments: Any, **options: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(Explainer, "compile", compiled)
    text = refused(wrong, "compile", "skl.py:predict", "kernel_shap", "-o", "w.explainer")
    assert "cannot be compiled to a file" in text


def test_the_version(folder: Path) -> None:
    assert done(folder, "--version").strip() == f"explainers {explainers.__version__}"


def test_attributions_of_token_ids_are_not_cut_to_whole_numbers(folder: Path) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(9, 3), torch.nn.Flatten(), torch.nn.Linear(15, 2))
    x = np.random.default_rng(0).integers(0, 9, (4, 5))
    explain = Explainer.compile(model, "feature_ablation", inputs=x, baseline=0)
    explain.save(folder / "ids.explainer")
    np.save(folder / "ids.npy", x)
    done(folder, "run", "ids.explainer", "ids.npy", "--target", "1", "-o", "of_ids.npy")
    found = np.load(folder / "of_ids.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, explain(x, target=1), atol=1e-6)
