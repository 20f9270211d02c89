"""Write the results of a run as Markdown between the marks of a page.

    python -m benchmarks.run --json results.json
    python -m benchmarks.page results.json             # into docs/benchmarks.md

A missed goal stays in the tables and in the list below them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .report import HEAD, RULE, Line, mark, missed_summary, table_row

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
OVERHEAD = 60  # microseconds: the goal


def section(run: Mapping[str, Any]) -> str:
    """One backend's run: machine and versions, the table, overheads, and the goals that were missed."""
    names = [field.name for field in dataclasses.fields(Line)]
    lines = [Line(**{name: record[name] for name in names}) for record in run["lines"]]
    text = [f"{run['about']}:", "", table_row(HEAD), RULE, *(table_row(line.cells()) for line in lines), ""]
    if run["overhead_microseconds"]:
        text += ["Python in a warm explain(x), over explain.native on prepared tensors:", ""]
        text += [f"- {what}: {us:.0f} µs{mark(us, OVERHEAD)}" for what, us in run["overhead_microseconds"].items()]
        text.append("")
    return "\n".join([*text, missed_summary(lines).replace("\n", "\n\n", 1), ""])


def fill_page(page: str, runs: Iterable[Mapping[str, Any]]) -> str:
    """The page with the text between its marks replaced by the runs' results."""
    before, begin, after_begin = page.partition(BEGIN)
    _, end, after_end = after_begin.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return "\n".join([before + BEGIN, "", *map(section, runs), END + after_end])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("results", type=Path, help="what python -m benchmarks.run --json wrote")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    results = json.loads(args.results.read_text(encoding="utf-8"))
    text = fill_page(args.page.read_text(encoding="utf-8"), results.get("runs", [results]))
    args.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
