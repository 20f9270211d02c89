"""Writes the pages that come from the code: docs/operations.md, and the options in docs/cli.md.

python docs/generate.py            # write
python docs/generate.py --check    # exit status 1 where a page is not current
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from explainers.errors import UnsupportedOperation
from explainers.graph import Function, Node, Role
from explainers.methods import METHODS, DeepLift
from explainers.rules import RuleSet

HERE = Path(__file__).parent
Group = tuple[Role, str]  # and the function, "taken apart", or ""

# --- operations ------------------------------------------------------------------------------

COLUMNS: dict[str, RuleSet | None] = {
    **{
        name: METHODS[name].rule_set
        for name in ("gradient", "guided_backprop", "deconvnet", "zero", "elrp", "deeplift")
    },
    "revealcancel": DeepLift(rule="revealcancel").rule_set,
    "lrp": METHODS["lrp"].rule_set,
}
APART = "taken apart"
HEAD = """\
# Operations

This page lists every operation that the backends know, its role, and its rule in each rule set. Running
`python docs/generate.py` writes it from the tables of the code; a test fails when it is out of date.

For a model of your own, `print(explain.coverage)` lists the same for its operations.

## Rules

The first column is the role, with the function where rules distinguish it. The other cells name the rule in
`explainers/rules/`. `vjp` is the operation's own vector–Jacobian product. An empty cell means that the rule set has no
rule for the operation: compiling then raises `UnsupportedOperation`. The methods `saliency`, `input_x_gradient`,
`integrated_gradients`, `smoothgrad` and `gradient_shap` use the column `gradient`; `deeplift_shap` uses the columns of
`deeplift`. DeepLIFT's `rule="genomics"` is `revealcancel` after dense layers and `deeplift` elsewhere. Methods that
only look at outputs need no rule.

"""
NOTES = """\

- *taken apart*: for `deeplift` and `lrp`, the backend replaces the operation by elementary operations before the walk,
  and each of these has a rule. A form of the operation that the backend does not take apart stays whole and has none.
- *composite's*: the rule that the composite of `LRP` assigns to this layer.
- With `DeepLift(unsupported="gradient")`, the derivative fills every empty cell of `deeplift`, and the result names the
  operation.
- If the rule set needs it (`deeplift`, `lrp`, `elrp`), elementwise operations of one tensor are first joined into one
  `univariate` node, so `x * sigmoid(x)` is one function of x.
- Nothing passes `stop_gradient`. The values that `deeplift` compares must not depend on one; it refuses the operation
  where they do.
- A product, quotient or power with a constant is `linear, scale` or `univariate`. In the lists below, *two* marks the
  role of an operation when two of its tensors depend on the model's inputs.

"""


def groups(module: Any, function: Callable[..., str], pairs: set[str], apart: set[str]) -> dict[Group, list[str]]:
    """The operations of a backend's table by role and function, with one and with two moving tensors."""
    additive: dict[str, int] = getattr(module, "ADDITIVE", {})
    members: dict[Group, list[str]] = {}

    def put(name: str, places: list[int], label: str) -> None:
        role = module.role(name, places, len(places))
        group = role, function(name, role, places)
        if role is Role.COMPOSITE and group[1] is Function.NONE and name in apart:
            group = role, APART
        members.setdefault(group, []).append(label)

    for name in module.TABLE:
        first, second = [place for place in range(3) if place != additive.get(name)][:2]
        put(name, [first], name)
        if name in pairs:
            put(name, [first, second], f"{name} (two)")
    for name in sorted((pairs | apart) - set(module.TABLE)):
        if name in apart:
            members.setdefault((Role.COMPOSITE, APART), []).append(name)
        else:
            put(name, [0, 1], f"{name} (two)")
    return members


def torch_groups() -> dict[Group, list[str]]:
    from explainers_torch import decompose, roles

    pairs = {*roles.PRODUCT.split(), *roles.MATRIX_PRODUCTS, *roles.OF_TWO, "maximum", "minimum", "fmax", "fmin"}
    apart = {overload._schema.name.partition("::")[2] for overload in decompose.TABLE}
    apart -= {name for name, role in roles.TABLE.items() if role is not Role.COMPOSITE} | {"pad"}
    return groups(roles, roles.function, pairs, apart)


def tensorflow_groups() -> dict[Group, list[str]]:
    from explainers_tensorflow import roles

    pairs = {*roles.PRODUCT.split(), *roles.MATRIX_PRODUCTS, *roles.PAIRED, *roles.OF_TWO}
    members = groups(roles, lambda name, role, places: roles.function(name, role), pairs, set())
    norms = [name for name in members[Role.COMPOSITE, ""] if name in roles.NORMS]
    members[Role.COMPOSITE, ""] = [name for name in members[Role.COMPOSITE, ""] if name not in norms]
    members[Role.LINEAR, ""] += [f"{name} (in inference)" for name in norms]
    return members


def rule_name(rules: RuleSet | None, group: Group) -> str:
    """How a rule set passes operations of a group, "" where it does not."""
    role, function = group
    assert rules is not None
    if function == Function.STOP_GRADIENT:
        return "stops"
    if function == APART:
        if rules.elementary:
            return APART
        function = Function.NONE
    try:
        rule: Any = rules.rule(Node("node", "op", role, function=function))
    except UnsupportedOperation:
        return ""
    if rules.name == "lrp" and Function(function).weighted:
        return "composite's"
    name = getattr(rule, "__name__", type(rule).__name__)
    return f"`{name.strip('_')}`"


def operations() -> str:
    """The page of operations."""
    frameworks = {"torch (ATen)": torch_groups(), "TensorFlow": tensorflow_groups()}
    order = list(Role)
    known_groups = {group for members in frameworks.values() for group in members} | {(Role.OPAQUE, "")}
    rows = sorted(known_groups, key=lambda group: (order.index(group[0]), group[1] == APART, group[1]))
    lines = [f"| role | {' | '.join(f'`{name}`' for name in COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for group in rows:
        lines.append(f"| {title(group)} | {' | '.join(rule_name(rules, group) for rules in COLUMNS.values())} |")
    text = HEAD + "\n".join(lines) + "\n" + NOTES
    for framework, members in frameworks.items():
        text += f"## {framework}\n\n"
        for group in rows:
            if members.get(group):
                names = ", ".join(f"`{name}`" for name in sorted(members[group], key=str.lower))
                text += f"**{title(group)}**: {names}\n\n"
    return text + "Every other operation is `opaque`.\n"


def title(group: Group) -> str:
    role, function = group
    return f"{role.value}, {function}" if function else role.value


# --- options ---------------------------------------------------------------------------------

OPTIONS = re.compile(r"(<!-- options: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def options(command: str) -> str:
    """A command's usage and its options as a table."""
    import typer

    from explainers.cli import compare, evaluate, info, methods, report  # noqa: F401 - add their commands
    from explainers.cli.commands import app

    group: Any = typer.main.get_command(app)
    parameters = [p for p in group.commands[command].params if p.name != "help"]
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    usage = " ".join(f"{p.name.upper()}{' …' if p.nargs == -1 else ''}" for p in arguments)
    lines = [
        "",
        "```text",
        f"explainers {command} {usage} [options]",
        "```",
        "",
        "| option | meaning | default |",
        "|---|---|---|",
    ]
    lines += [f"| {named(p)} | {cell(p.help)} | {default(p)} |" for p in parameters]
    return "\n".join([*lines, "", ""])


def named(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in parameter.opts)


def default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    return "" if value in (None, False, ()) or callable(value) else f"`{value}`"


def cell(text: str | None) -> str:
    return (text or "").replace("|", r"\|")


def pages() -> Iterator[tuple[Path, str]]:
    """Each page with what it should hold."""
    yield HERE / "operations.md", operations()
    cli = HERE / "cli.md"
    text = cli.read_text(encoding="utf-8")
    yield cli, OPTIONS.sub(lambda match: match[1] + options(match[2]) + match[3], text)


def main(arguments: Sequence[str]) -> int:
    stale = 0
    for path, text in pages():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if "--check" in arguments:
            print(f"{path} is not current: run python docs/generate.py")
        else:
            path.write_text(text, encoding="utf-8")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
