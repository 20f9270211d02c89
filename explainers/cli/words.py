"""Rewrite the library's messages for the command: options instead of Python arguments, files instead of arrays.

The library's messages address Python users: ``pass allow_nonfinite=True``. :func:`for_command` turns them into
messages about the options of a command: ``pass --allow-nonfinite``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from ..methods import METHODS
from ..methods.lrp import Composite

OTHERS = ("compile", "run", "report")  # commands that are searched for an option that the current command lacks
RENAMED = {"model_output": "output", "output": ""}  # the command's own --output is a file
FLAGS = "allow_nonfinite|aot|per_token|strict|interacting|overwrite|restart|insecure"
VALUES = {"None": "null", "True": "true", "False": "false"}  # as --set takes them
ARGUMENT = re.compile(r"(?<!--set )(?<![-\w.])([a-z_]+)=(?:(['\"])(.*?)\2|([\w.:{}…-]*[\w{}…])?)")

Replacement = str | Callable[[re.Match[str]], str]
# (pattern, replacement) for phrases of the library that need more than the name of an option
PHRASES: tuple[tuple[str, Replacement], ...] = (
    (r"convert it with \.astype\(['\"]?(\w+)['\"]?\)", r"store the numbers of its file as \1"),
    (r" A batch axis is missing: x\[None\]\.", " A file's first axis is that of the samples, also of one: (1, …)."),
    (r" One sample needs a batch axis: x\[None\]\.", " The first axis is that of the samples, also of one: (1, …)."),
    (r"References\(array\) for the set, or References\(array\[:, None\], per_sample=True\), or a function of the batch "
     r"that returns it, for one each", "--references @file.npy for the set, or --baseline with one sample"),
    (r"Give inputs= \(example arrays or TensorSpecs\) to Explainer\.compile, or call the explainer first\.",
     "Give --inputs float32[4], the sizes of one sample, or --inputs examples.npy."),
    (r"give an example, or a TensorSpec with the sizes",
     "give --inputs with a file of examples, or with the sizes, as in float32[28,28,1]"),
    (r"\ba TensorSpec needs\b", "--inputs needs"),
    (r"keys \(key_file=\)", "--keys"),
    (r"save it without aot", "leave --aot out"),
    (r"\bor with TensorSpec\(…, columns=…\)", "or with --columns a,b,c"),
    (r"\bTensorSpec", "--inputs "),
    (r"Give (?:an int|a tuple of (\d+) ints) \(the same for all\), a list of (\d+) of them \(one per sample\), "
     r"a mask of shape (\(.*?\)|\{\}) or (\(.*?\)|\{\}), or 'max'\.",
     lambda m: f"Give --target {','.join('0' * int(m[1])) if m[1] else '0'} (the same for all), --target max, or "
     f"--target @file.npy with {m[2]} of them (one per sample) or with weights of shape {m[3]} or {m[4]}."),
    (r"give a tuple or a dict, one for each of", "give --baseline @file.npz with an array for each of"),
    (r"give a tuple, one (?:entry )?for each", "give an explainer of one input"),
    (r"Compile with values \(numbers, arrays, References, the library's own methods and rules\), or give it at each "
     r"call: explain\(x, baseline=…\)\.", "A file takes numbers, arrays, and the library's own methods and rules."),
    (r"The error's \.coverage lists every operation; pick another method, or wrt= a layer",
     "Pick another method, or --wrt a layer"),
    (r"explain\.audit\(…\) names the operations that lose the rest; compiled", "Compiled"),
    (r"explain\.audit\(…\) names the operations that lose the rest; ", ""),
    (r", with x\.filled\(0\.0\) or what else stands for missing ones|: give x\.toarray\(\)", ""),
    (r"say which to show with output=", "give one of them as --target"),
    (r"say which to show with input=", "explain them one by one"),
    (r"Candidate\(model, ([^)]*)\)", r"the model and --methods \1"),
    (r"explainers\.methods\b", "the methods' names"),
    (r"baseline=References\(array\)", "--references @file.npy"),
    (r"explain\.coverage and Explanation\.approximations name", "explainers info --coverage names"),
)  # fmt: skip


@lru_cache(maxsize=32)
def options(command: str) -> dict[str, str]:
    """The options of a command, by the names of the library's arguments that they set."""
    from typer.main import get_command

    from .commands import app

    group: Any = get_command(app)
    option_by_argument = {}
    for parameter in group.commands[command].params if command in group.commands else ():
        name = RENAMED.get(parameter.name, parameter.name)
        if parameter.param_type_name == "option" and name:
            option_by_argument[name] = max(parameter.opts, key=len)
    return option_by_argument


def for_command(text: str, option_names: Mapping[str, str]) -> str:
    """A message of the library, rewritten for a command with the options ``option_names``."""
    if "allow_nonfinite" not in option_names:
        text = re.sub(r"(?:,? or|;) (?:pass|give) allow_nonfinite=True[^.;]*", "", text)
    for pattern, words in PHRASES:
        text = re.sub(pattern, words, text)
    text = re.sub(r"\b([A-Z]\w+)\(([^()]*)\)", _method, text)
    text = re.sub(r"(?<![\w:.])([A-Z]\w+[a-z][A-Z]\w+)\b", lambda m: _names().get(m[1], m[1]), text)
    text = re.sub(r"\bReferences(?:\(array\))?(?=\W|$)", lambda m: _option("references", option_names) or m[0], text)
    text = re.sub(rf"\b({FLAGS})=True\b", lambda m: _option(m[1], option_names) or m[1], text)
    text = ARGUMENT.sub(lambda m: _argument(m, option_names), text)
    text = re.sub(r"(\bor |\bgot |=)(None|True|False)\b", lambda m: m[1] + VALUES[m[2]], text)
    return re.sub(r"(?<![-\w])([a-z]+(?:_[a-z]+)+)(?!\w|\()", lambda m: option_names.get(m[1], m[1]), text)


def _option(name: str, option_names: Mapping[str, str]) -> str:
    """The option that sets an argument, of this command or of another one; "" if there is none."""
    if name in option_names:
        return option_names[name]
    command = next((command for command in OTHERS if name in options(command)), None)
    return f"{options(command)[name]} (of explainers {command})" if command else ""


def _argument(match: re.Match[str], option_names: Mapping[str, str]) -> str:
    """The replacement of a match of ``name=value``."""
    name, value = match[1], match[3] or match[4] or ""
    option = _option(name, option_names)
    if option:
        return f"{option} {value}".rstrip()
    if name in _parameters():
        return f"--set {name}={value or '…'}"
    return match[0] if value else name


def _method(match: re.Match[str]) -> str:
    """The replacement of ``KernelShap(samples=9)``; several parameters are listed without ``--set``."""
    if match[1] not in _names():
        return match[0]
    if match[2].count("=") > 1:
        return f"{_names()[match[1]]} ({match[2].replace('=', ' ')})"
    return f"{_names()[match[1]]} with --set {match[2]}" if match[2] else _names()[match[1]]


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    """The methods' names, by class name."""
    return {type(method).__name__: method.name for method in METHODS.values()}


@lru_cache(maxsize=1)
def _parameters() -> frozenset[str]:
    """The parameters of all methods, which ``--set`` accepts."""
    kinds: list[Any] = [*map(type, METHODS.values()), Composite]
    return frozenset(field.name for kind in kinds for field in dataclasses.fields(kind))
