"""The command ``methods``: the methods by name, with their parameters, from their docstrings and fields."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.text import Text

from .. import methods as library
from ..methods import METHODS, Method
from . import words
from .commands import app, command_errors, console

ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`|``(.*?)``")  # markup of docstrings
INDENT = 4
GROUPS = {  # whether a method takes any function of arrays: title
    False: "For models of torch and TensorFlow",
    True: "For these models and any function of arrays",
}


@app.command(epilog="Examples: explainers methods; explainers methods integrated_gradients")
def methods(
    method: Annotated[list[str] | None, typer.Argument(help="Which; all by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the methods with their parameters; describe those that are named in full."""
    with command_errors("methods"):
        values = {name: library.resolve(name) for name in method or METHODS}
        if as_json:
            records = [
                {"name": name, "summary": summary(value), "any_function": value.rules is None,
                 "parameters": defaults(value)}
                for name, value in values.items()
            ]  # fmt: skip
            typer.echo(json.dumps(records, indent=2, ensure_ascii=False))
        elif method:
            for name, value in values.items():
                _show(name, spoken(defaults(value)), description(value))
        else:
            for any_function, title in GROUPS.items():
                console.print(Text(f"{title}\n", style="underline"))
                for name, value in values.items():
                    if (value.rules is None) == any_function:
                        _show(name, spoken(defaults(value)), summary(value))


def _show(name: str, parameters: dict[str, Any], text: str) -> None:
    console.print(Text(name, style="bold"))
    lines = [Text(line) for line in text.split("\n")]
    if parameters:
        lines.append(
            Text(f"parameters: {', '.join(f'{key}={value}' for key, value in parameters.items())}", style="dim")
        )
    for line in lines:
        console.print(Padding(line, (0, 0, 0, INDENT), expand=False))
    console.print()


def defaults(method: Method) -> dict[str, Any]:
    """The method's parameters with their values."""
    return {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}


def spoken(values: dict[str, Any]) -> dict[str, str]:
    """The values of parameters as ``--set`` takes them."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def summary(method: Method) -> str:
    """The first paragraph of the method's docstring, in one line."""
    return description(method).partition("\n")[0]


def description(method: Method) -> str:
    """The method's docstring without its markup, a line for each paragraph, parameter or item of a list.

    Python's names are replaced by those of the command. What the docstring says about errors is left out.
    """
    text = ROLE.sub(lambda match: match[1] or match[2], inspect.getdoc(type(method)) or "").replace(r"\*", "*")
    prose, _, parameters = text.partition("\nRaises\n---")[0].partition("Parameters\n----------\n")
    prose = "\n\n".join(" ".join(paragraph.split()) for paragraph in prose.strip().split("\n\n"))
    parameters = re.sub(r"\n\s+(?![\s*])", " ", parameters.strip())  # what follows on a line below is indented
    text = "\n\n".join(filter(None, (prose, re.sub(r"\n\s*\n", "\n", parameters))))
    text = re.sub(r"\b(None|True|False)\b", lambda match: words.VALUES[match[1]], text)
    return words.for_command(text, words.options("compile"))
