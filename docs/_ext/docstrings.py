"""A Sphinx extension that turns the docstrings of this library into field lists.

Sections are underlined as in numpydoc; their entries are ``name: text`` or ``name, name: text``. A bar marks
an absolute value, never a substitution.
"""

from __future__ import annotations

import re
from typing import Any

SECTION = re.compile(r"^(Parameters|Attributes|Class attributes|Returns|Raises|Warns)$")
ENTRY = re.compile(r"^([*\w]+(?:, [*\w]+)*): (.*)$")
ERROR = re.compile(r"\b([A-Z]\w+(?:Error|Name|Operation|Full|Missing|Converged|Warning))\b")
ALIAS = re.compile(r"TypeAliasForwardRef\('(\w+)'\)")
LITERAL = re.compile(r"(``.*?``|:\w+:`.*?`)")


def escaped(line: str) -> str:
    """The line with its bars escaped, outside literals."""
    parts = LITERAL.split(line)
    return "".join(part if i % 2 else part.replace("|", r"\|") for i, part in enumerate(parts))


def entries(lines: list[str]) -> list[tuple[str, list[str]]]:
    """(names, lines of the text) of each entry of a section."""
    pairs: list[tuple[str, list[str]]] = []
    for line in lines:
        entry = ENTRY.match(line)
        if entry:
            pairs.append((entry[1], [entry[2]]))
        elif pairs:
            pairs[-1][1].append(line[4:] if line[:1].isspace() else line)
        elif line.strip():
            pairs.append(("", [line]))
    return pairs


def fields(title: str, lines: list[str]) -> list[str]:
    """The lines of one section as a field list."""
    if title in ("Raises", "Warns"):
        text = ERROR.sub(r":exc:`~explainers.errors.\1`", " ".join(line.strip() for line in lines).strip())
        return [f":raises: {text}", ""] if title == "Raises" else [f".. rubric:: {title}", "", text, ""]
    if title == "Returns":
        text = " ".join(line.strip() for line in lines).strip()
        return [f":returns: {text}", ""]
    output = [f".. rubric:: {title}", ""]
    for names, text in entries(lines):
        head = ", ".join(f"``{name}``" for name in names.split(", "))
        output += [head, *(f"    {line}" for line in text), ""]
    return output


def rewritten(lines: list[str]) -> list[str]:
    """A docstring with its sections as fields."""
    output: list[str] = []
    place = 0
    while place < len(lines):
        line = lines[place]
        underlined = place + 1 < len(lines) and re.fullmatch(r"-{3,}", lines[place + 1] or "x")
        if not (SECTION.match(line) and underlined):
            output.append(line if literal(lines, place) else escaped(line))
            place += 1
            continue
        stop = place + 2
        while stop < len(lines) and not ends(lines, stop):
            stop += 1
        output += fields(line, [escaped(text) for text in lines[place + 2 : stop]])
        place = stop
    return output


def ends(lines: list[str], place: int) -> bool:
    """Whether a section ends before this line: after an empty line, one that is neither a list item nor indented."""
    if lines[place - 1].strip() or not lines[place].strip():
        return False
    return not lines[place].startswith((" ", "* "))


def literal(lines: list[str], place: int) -> bool:
    """Whether the line is part of an example."""
    return lines[place].lstrip().startswith((">>> ", "... ")) or (
        lines[place].startswith("    ") and "::" in (line.strip() for line in lines[:place])
    )


def process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place. A tuple of names has none of its own: list the names."""
    names = what == "data" and isinstance(thing, tuple)
    lines[:] = [", ".join(f"``{value!r}``" for value in thing)] if names else rewritten(lines)


def plain(app: Any, what: str, name: str, thing: Any, options: Any, signature: Any, returned: Any) -> Any:
    """Show type aliases in signatures by name."""
    return tuple(text and ALIAS.sub(r"\1", text) for text in (signature, returned))


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", plain)
    return {"parallel_read_safe": True}
