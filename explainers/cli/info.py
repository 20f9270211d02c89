"""The command ``info``: what a file says of itself, and the text of its programs; nothing of it is run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ..backend import backends
from ..errors import ArtifactError
from ..file import container
from ..graph.coverage import printable
from .calls import File
from .commands import app, command_errors, console

CHECKED = ("size", "members")  # what info itself has checked; all else is the file's own word
OWN_WORD = "The file's own word:"  # the head of the lines that nothing has checked


@app.command(epilog="Example: explainers info digits.explainer")
def info(
    file: File,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    coverage: Annotated[bool, typer.Option("--coverage", help="Every kind of operation, and its rule.")] = False,
    code: Annotated[bool, typer.Option("--code", help="The text of its programs, which are not run.")] = False,
) -> None:
    """Show what a file explains, how, and what it contains. Loads no framework, and runs nothing of the file."""
    with command_errors("info"):
        if code:
            _print_code(file)
            return
        manifest = container.read_manifest(file)
        if as_json:
            fields = ("format", "backend", "engine", "program", "device", "method", "output")
            data = {
                **{key: getattr(manifest, key) for key in fields},
                "inputs": [str(spec) for spec in manifest.signature.inputs],
                "columns": {spec.name: list(spec.columns) for spec in manifest.signature.inputs if spec.columns},
                "attributed": list(manifest.attributed), "batch_size": manifest.batch_size, "size": manifest.size,
                "placeholders": {part: [p.name for p in group] for part, group in manifest.placeholders.items()},
                "coverage": [asdict(row) for row in manifest.coverage], "versions": dict(manifest.versions),
                "members": {name: member.size for name, member in manifest.members.items()},
                "signers": list(manifest.signers), "checked": list(CHECKED),
            }  # fmt: skip
            typer.echo(json.dumps(data, indent=2))
            return
        console.print(_summary(file, manifest))
        if coverage:
            console.print(manifest.coverage)


def _print_code(file: Path) -> None:
    """Print the text of the programs, escaped but for its lines."""
    data, contents = container.read(file)
    name = str(data.get("backend"))
    if name not in backends():
        raise ArtifactError(f"it was made by the backend {name!r}, which is not installed here")
    for title, text in backends()[name].code(contents).items():
        typer.echo(f"# {printable(title)}")
        typer.echo("\n".join(map(printable, text.expandtabs(4).split("\n"))))


def _summary(file: Path, manifest: container.Manifest) -> Table:
    table = Table(show_header=False, box=None, title=printable(str(file)), title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    exactness = {row.exactness for row in manifest.coverage} - {""}
    signers = [f"by {name}, not checked here (load with --trusted)" for name in manifest.signers]
    lines = {
        "size": [f"{manifest.size:,} bytes in {len(manifest.members)} members"],
        "signed": signers or ["no"],
        OWN_WORD: [""],
        "method": [manifest.method],
        "inputs": [*map(str, manifest.signature.inputs)],
        **{f"columns of {spec.name}": [", ".join(spec.columns)] for spec in manifest.signature.inputs if spec.columns},
        "attributed to": [", ".join(manifest.attributed)],
        "output": [manifest.output],
        "backend": [f"{manifest.backend}, engine {manifest.engine}, {manifest.device or 'any device'}"],
        "programs": [f"as {manifest.program}"],
        "package": [f"{manifest.batch_size} rows"],
        "operations": [
            f"{sum(row.count for row in manifest.coverage)}, rules: {', '.join(sorted(exactness)) or 'none'}"
        ],
        "made with": [", ".join(f"{name} {number}" for name, number in manifest.versions.items())],
    }
    for name, texts in lines.items():
        table.add_row(Text(printable(name)), Text("\n".join(map(printable, texts))))
    return table
