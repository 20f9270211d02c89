"""Every error and warning of the library, rewritten for the command, contains no Python calls."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from explainers.cli import compare, evaluate, info, methods, report, words  # noqa: F401, add their commands to the app

ROOT = Path(__file__).parents[1]
COMMANDS = ("compile", "info", "run", "bench-call", "serve", "compare", "evaluate", "report", "methods")
ARGUMENTS = (
    "allow_nonfinite|aot|backend|baseline|batch_size|channels|classes|columns|device|dtype|engine|inputs|interacting|kind|"
    "names|output|per_token|seed|strict|target|wrt"
)  # fmt: skip
PYTHON = re.compile(
    rf"(?<![-\w])({ARGUMENTS})=|\.(astype|filled|toarray)\b|explain\(|Explainer\.|TensorSpec|\[None\]|\w\.[a-z_]+\(.*\)"
)
ABOUT_THE_MODEL = ("KERAS_BACKEND", "model.export()", "set_floatx", "to_dense()", "unroll=True", "tf.shape")
NOT_THERE = (  # parts of the library that no command reaches
    "explainers/serve/", "explainers/scheduler.py", "explainers/influence/", "explainers/losses.py",
    "explainers/explainer/ensembles.py",
)  # fmt: skip
OPTIONS = {
    "--output", "--help", "--set", *(option for command in COMMANDS for option in words.options(command).values())
}  # fmt: skip


def texts(node: ast.AST) -> Iterator[str]:
    """The string constants in an expression; ``x1`` replaces a formatted value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(v.value) if isinstance(v, ast.Constant) else "x1" for v in node.values)
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                yield from texts(value.value)
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def messages() -> list[str]:
    """All texts of several words in the code, except docstrings and texts in places that hold no messages."""
    all_texts = {}
    for path in sorted([*ROOT.glob("explainers/**/*.py"), *ROOT.glob("backends/**/*.py")]):
        if str(path.relative_to(ROOT)).startswith((*NOT_THERE, "explainers/cli/words.py")):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            spoken = isinstance(node, (ast.Raise, ast.Return, ast.Assign, ast.Call))
            if spoken:
                for text in texts(node):
                    if text.count(" ") > 1:
                        all_texts[text] = path
    return sorted(all_texts)


def test_there_are_many_messages() -> None:
    all_texts = messages()
    assert len(all_texts) > 300
    assert sum(bool(PYTHON.search(text)) for text in all_texts) > 30


@pytest.mark.parametrize("command", COMMANDS)
def test_no_message_calls_python(command: str) -> None:
    known_names = words.options(command)
    for text in messages():
        spoken = words.for_command(text, known_names)
        assert not PYTHON.search(spoken) or any(model in text for model in ABOUT_THE_MODEL), (text, spoken)
        for option in re.findall(r"(?<![-\w])--([a-z][a-z-]*)", spoken):
            assert f"--{option}" in OPTIONS, (text, spoken)


@pytest.mark.parametrize(
    ("text", "command", "expected"),
    [
        ("pass allow_nonfinite=True to let it through", "run", "pass --allow-nonfinite to let it through"),
        ("Clean it, or pass allow_nonfinite=True to let it through.", "compare", "Clean it."),
        ("target='all' needs a forward-only method", "run", "--target all needs a forward-only method"),
        ("pick one with output=: 'a'", "compile", "pick one with --model-output: 'a'"),
        ("Give wrt= a layer", "compile", "Give --wrt a layer"),
        ("Give wrt= a layer", "run", "Give --wrt a layer"),
        ("Give wrt= a layer", "compare", "Give --wrt (of explainers compile) a layer"),
        ("leave out batch_size", "compile", "leave out --batch-size"),
        ("Join elements with groups=, or take ShapleySampling.", "compile",
         "Join elements with --set groups=…, or take shapley_sampling."),
        ("KernelShap(samples=4) is too few", "compile", "kernel_shap with --set samples=4 is too few"),
        ("Compile the model there, with device='cuda:0'.", "run", "Compile the model there, with --device cuda:0."),
        ("say channels='first' or 'last'", "report", "say --channels first or 'last'"),
        ("it has dtype int64: convert it with .astype('float32')", "run",
         "it has dtype int64: store the numbers of its file as float32"),
        ("aot=True compiles ahead of time", "compile", "--aot compiles ahead of time"),
        ("not References; 'gradient_shap' averages over references", "compile",
         "not --references; 'gradient_shap' averages over references"),
        ("The output has shape (3,) for each of 2 samples. Give an int (the same for all), a list of 2 of them (one "
         "per sample), a mask of shape (3,) or (2, 3), or 'max'.", "run",
         "The output has shape (3,) for each of 2 samples. Give --target 0 (the same for all), --target max, or "
         "--target @file.npy with 2 of them (one per sample) or with weights of shape (3,) or (2, 3)."),
        ("tolerance=0.1 allows 3", "run", "--set tolerance=0.1 allows 3"),
        ("no method 'Gradient' of that name; 'a.b=c' stays", "run", "no method 'Gradient' of that name; 'a.b=c' stays"),
        ("give parameters as name=value; got 'x'", "run", "give parameters as name=value; got 'x'"),
    ],
)  # fmt: skip
def test_words(text: str, command: str, expected: str) -> None:
    assert words.for_command(text, words.options(command)) == expected
