"""Sphinx: the docstrings of this library as field lists.

Sections are underlined as in numpydoc; their entries are ``name: text`` or ``name, name: text``. A bar is
written for an absolute value and means nothing else.
"""

from __future__ import annotations

import re
from typing import Any

SECTION = re.compile(r"^(Parameters|Attributes|Class attributes|Returns|Raises)$")
ENTRY = re.compile(r"^([*\w]+(?:, [*\w]+)*): (.*)$")
ERROR = re.compile(r"\b([A-Z]\w+(?:Error|Name|Operation|Full|Missing|Converged))\b")
ALIAS = re.compile(r"TypeAliasForwardRef\('(\w+)'\)")
LITERAL = re.compile(r"(``.*?``|:\w+:`.*?`)")


def escaped(line: str) -> str:
    """The line with bars as they stand, outside literals."""
    parts = LITERAL.split(line)
    return "".join(part if i % 2 else part.replace("|", r"\|") for i, part in enumerate(parts))


def entries(lines: list[str]) -> list[tuple[str, list[str]]]:
    """(names, lines of the text) of each entry of a section."""
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        entry = ENTRY.match(line)
        if entry:
            found.append((entry[1], [entry[2]]))
        elif found:
            found[-1][1].append(line[4:] if line[:1].isspace() else line)
        elif line.strip():
            found.append(("", [line]))
    return found


def fields(title: str, lines: list[str]) -> list[str]:
    """The lines of one section as a field list."""
    if title == "Raises":
        text = ERROR.sub(r":exc:`~explainers.errors.\1`", " ".join(line.strip() for line in lines).strip())
        return [f":raises: {text}", ""]
    if title == "Returns":
        text = " ".join(line.strip() for line in lines).strip()
        return [f":returns: {text}", ""]
    made = [f".. rubric:: {title}", ""]
    for names, text in entries(lines):
        head = ", ".join(f"``{name}``" for name in names.split(", "))
        made += [head, *(f"    {line}" for line in text), ""]
    return made


def rewritten(lines: list[str]) -> list[str]:
    """A docstring with its sections as fields."""
    made: list[str] = []
    place = 0
    while place < len(lines):
        line = lines[place]
        underlined = place + 1 < len(lines) and re.fullmatch(r"-{3,}", lines[place + 1] or "x")
        if not (SECTION.match(line) and underlined):
            made.append(line if literal(lines, place) else escaped(line))
            place += 1
            continue
        stop = place + 2
        while stop < len(lines) and not ends(lines, stop):
            stop += 1
        made += fields(line, [escaped(text) for text in lines[place + 2 : stop]])
        place = stop
    return made


def ends(lines: list[str], place: int) -> bool:
    """Whether a section ends before this line: behind an empty one comes no list and nothing indented."""
    if lines[place - 1].strip() or not lines[place].strip():
        return False
    return not lines[place].startswith((" ", "* "))


def literal(lines: list[str], place: int) -> bool:
    """Whether the line is part of an example."""
    return lines[place].lstrip().startswith((">>> ", "... ")) or (
        lines[place].startswith("    ") and "::" in (line.strip() for line in lines[:place])
    )


def process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = rewritten(lines)


def plain(app: Any, what: str, name: str, thing: Any, options: Any, signature: Any, returned: Any) -> Any:
    """Signatures with type aliases by their names."""
    return tuple(text and ALIAS.sub(r"\1", text) for text in (signature, returned))


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", plain)
    return {"parallel_read_safe": True}
