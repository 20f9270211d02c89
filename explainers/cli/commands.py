"""The commands. Each is thin: what it does is the library's."""

from __future__ import annotations

import json
import re
import signal
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .. import __version__, tables
from ..errors import ExplainersError, InputError
from ..explainer.api import Explainer
from ..explainer.explanation import on_host
from ..file import container, writing
from . import files, sources, words
from .calls import (
    Baseline,
    Columns,
    Device,
    File,
    Inputs,
    Output,
    Seed,
    Setting,
    Target,
    bound,
    incomplete,
    loaded,
    some,
    with_columns,
)

app = typer.Typer(name="explainers", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"explainers {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Tell it.")] = False,
) -> None:
    """Compile an explanation of a trained network once, keep it in a file, run it and serve it."""


messages = Console(stderr=True)
INTERRUPTED = 130
SHOWN = 0.1  # seconds between two states that survive an interruption


@contextmanager
def told(command: str, status: int = 1) -> Iterator[None]:
    """Errors that a user can mend, and warnings, in a line or two and in the command's words; then this exit status."""
    known = words.options(command)
    with warnings.catch_warnings():
        warnings.showwarning = partial(_show_warning, known, warnings.showwarning)
        try:
            yield
        except (ExplainersError, OSError) as error:
            where = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
            text = words.spoken(str(error), known)
            messages.print(f"error{where}: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(status) from error
        except KeyboardInterrupt as error:
            messages.print("interrupted", style="red")
            raise typer.Exit(INTERRUPTED) from error


def _show_warning(known: Mapping[str, str], others: Any, message: Any, category: Any, *where: Any, **more: Any) -> None:
    """The library's own as the command's; those of frameworks as ever."""
    text = words.spoken(str(message), known)
    if category.__module__.startswith("explainers") or text != str(message):
        warn(f"warning: {text}")
    else:
        others(message, category, *where, **more)


def destination(path: Path) -> None:
    """Whether a file can be written there, before anything is computed for it."""
    if not writing.is_stream(path):
        writing.check(path)


def say(text: str, output: Path) -> None:
    """What was done; beside the standard output where that is what was written to."""
    where = messages if writing.is_stream(output) else console
    where.print(text, markup=False, highlight=False, soft_wrap=True)


def warn(text: str | None) -> None:
    if text:
        messages.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog="Example: explainers compile examples/digits.py:model deeplift -o digits.explainer --baseline 0")
def compile(
    model: Annotated[str, typer.Argument(help="module:name, file.py:name, a .keras or .pt2 file, or a SavedModel.")],
    method: Annotated[str, typer.Argument(help="deeplift, integrated_gradients, shapley_sampling …")],
    output: Output,
    inputs: Annotated[
        list[str] | None, typer.Option(help="An input: float32[1,28,28] (sizes of one sample) or a file of examples.")
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="A number, or @file.npy: one sample.")] = None,
    references: Annotated[str | None, typer.Option(help="@file.npy: a set of baselines, (B, …).")] = None,
    wrt: Annotated[list[str] | None, typer.Option(help="What is attributed: inputs, or one layer.")] = None,
    model_output: Annotated[str | None, typer.Option(help="Which of several outputs is explained.")] = None,
    backend: Annotated[str | None, typer.Option(help="torch or tensorflow; by default from the model.")] = None,
    engine: Annotated[str, typer.Option(help="torchscript, inductor, eager, graph, xla …")] = "auto",
    device: Device = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float64 or bfloat16.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows in a package.")] = None,
    per_token: Annotated[bool, typer.Option("--per-token", help="Sum attributions over their last axis.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where attributions do not add up.")] = False,
    interacting: Annotated[
        bool, typer.Option("--interacting", help="Samples see one another: a call is one batch.")
    ] = False,
    aot: Annotated[bool, typer.Option("--aot", help="Ahead of time: engine inductor compiles nothing later.")] = False,
    columns: Columns = None,
    setting: Setting = None,
) -> None:
    """Compile an explanation of a model into a file, which loads without the model's source."""
    from ..spec import References

    with told("compile"):
        destination(output)
        value = sources.method(method, setting or [])
        if baseline is not None and references is not None:
            raise InputError("give --baseline or --references, not both")
        given = sources.baseline(references or baseline)
        options: dict[str, Any] = {} if given is None else {"baseline": References(given) if references else given}
        explain = Explainer.compile(
            sources.filed(model, backend), value, inputs=sources.specs(inputs or []), wrt=wrt, output=model_output,
            backend=backend, engine=engine, device=device, dtype=dtype, batch_size=batch_size, per_token=per_token,
            strict=strict, interacting=interacting, **options,
        )  # fmt: skip
        explain = with_columns(explain, columns)
        explain.save(output, aot=aot)
        say(f"{output}: {explain}", output)


@app.command(epilog="Example: explainers info digits.explainer")
def info(
    file: File,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    coverage: Annotated[bool, typer.Option("--coverage", help="Every kind of operation, and its rule.")] = False,
) -> None:
    """What a file explains, how, and what it is made of. Loads no framework."""
    with told("info"):
        manifest = container.read_manifest(file)
        if as_json:
            plain = ("format", "backend", "engine", "device", "method", "output")
            data = {
                **{key: getattr(manifest, key) for key in plain},
                "inputs": [str(spec) for spec in manifest.signature.inputs],
                "columns": {spec.name: list(spec.columns) for spec in manifest.signature.inputs if spec.columns},
                "attributed": list(manifest.attributed), "batch_size": manifest.batch_size, "size": manifest.size,
                "placeholders": {part: [p.name for p in some] for part, some in manifest.placeholders.items()},
                "coverage": [asdict(row) for row in manifest.coverage], "versions": dict(manifest.versions),
                "members": {name: member.size for name, member in manifest.members.items()},
            }  # fmt: skip
            typer.echo(json.dumps(data, indent=2))
            return
        console.print(_summary(file, manifest))
        if coverage:
            console.print(manifest.coverage)


def _summary(file: Path, manifest: container.Manifest) -> Table:
    table = Table(show_header=False, box=None, title=str(file), title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    exactness = {row.exactness for row in manifest.coverage} - {""}
    lines = {
        "method": manifest.method,
        "inputs": "\n".join(map(str, manifest.signature.inputs)),
        **{f"columns of {spec.name}": ", ".join(spec.columns) for spec in manifest.signature.inputs if spec.columns},
        "attributed to": ", ".join(manifest.attributed),
        "output": manifest.output,
        "backend": f"{manifest.backend}, engine {manifest.engine}, {manifest.device or 'any device'}",
        "package": f"{manifest.batch_size} rows",
        "operations": f"{sum(row.count for row in manifest.coverage)}, rules: {', '.join(sorted(exactness)) or 'none'}",
        "made with": ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
        "size": f"{manifest.size:,} bytes in {len(manifest.members)} members",
    }
    for name, text in lines.items():
        table.add_row(name, Text(text))
    return table


@app.command(epilog="Example: explainers run digits.explainer inputs.npy --target 3 -o scores.npy")
def run(
    file: File,
    inputs: Inputs,
    output: Output,
    target: Target = None,
    baseline: Baseline = None,
    seed: Seed = None,
    block: Annotated[int | None, typer.Option(help="Samples that are read and written at a time.")] = None,
    columns: Columns = None,
    device: Device = None,
    setting: Setting = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what an interrupted run has done.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    allow_nonfinite: Annotated[bool, typer.Option("--allow-nonfinite", help="Let NaN and infinity through.")] = False,
) -> None:
    """Explain all samples of a file. The same command takes up where it was interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    with told("run"):
        if block is not None and block < 1:
            raise InputError(f"--block must be ≥ 1; got {block}")
        explain = loaded(file, device, setting)
        arrays = files.read(inputs)
        explain = with_columns(explain, columns)
        base = tables.aligned(sources.baseline(baseline), explain.attributed)
        given = {"target": sources.target(target), "baseline": base, "seed": seed}
        checksums = {name: member.sha256 for name, member in container.read_manifest(file).members.items()}
        what = {"members": checksums, "set": setting, "nonfinite": allow_nonfinite, "columns": columns}
        key = files.fingerprint(inputs, {**given, **what})
        into = files.OutputFile(output, key, restart, overwrite, [*inputs, file])
        _run(explain, arrays, given, into, block, allow_nonfinite)


def _run(
    explain: Explainer, arrays: dict[str, Any], given: dict[str, Any], into: files.OutputFile, block: int | None,
    allow_nonfinite: bool,
) -> None:  # fmt: skip
    inputs = bound(explain, arrays)
    total = inputs[0].shape[0]
    if not total:
        raise InputError("there are no samples")
    names = [spec.name for spec in explain.attributed] if len(explain.attributed) > 1 else [""]
    into.allocate(dict(zip(names, _shapes(explain, inputs, total), strict=True)))
    shown = time.monotonic()
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*bar, console=messages, disable=not messages.is_terminal) as progress:
        task = progress.add_task("samples", total=total, completed=into.done)
        try:
            for start, parts in _blocks(explain, inputs, given, into.done, block, allow_nonfinite):
                into.write(start, dict(zip(names, parts, strict=True)))
                progress.update(task, completed=into.done)
                if time.monotonic() - shown > SHOWN:
                    into.keep()
                    shown = time.monotonic()
        except ExplainersError:
            if not into.done:
                into.forget()
            raise
        except KeyboardInterrupt:
            if into.arrays:
                into.keep()
                messages.print(f"{into.done} of {total} samples are done; the same command goes on from there")
            raise
    into.finish(_columns(explain, inputs))
    warn(incomplete(explain))
    console.print(f"{into.name}: {total} samples", markup=False, highlight=False, soft_wrap=True)


def _columns(explain: Explainer, inputs: list[Any]) -> tuple[str, ...]:
    """Names of the columns of what is attributed, as they stand in its file."""
    found = dict(zip(explain.signature.names, inputs, strict=True)).get(explain.attributed[0].name)
    return tables.names(found) if tables.is_table(found) else ()


def _shapes(explain: Explainer, inputs: list[Any], total: int) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Shape and dtype of the attributions of all samples: the dtype of the input that they belong to."""
    dtypes = [tables.dtype(tables.rows(a, 0, 0)) if tables.is_table(a) else a.dtype for a in inputs]
    known = dict(zip(explain.signature.names, map(np.dtype, dtypes), strict=True))
    for spec in explain.attributed:
        own = np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype)
        given = known.get(spec.name, known[explain.signature.names[0]])
        shape = spec.sample_shape[:-1] if explain.per_token else spec.sample_shape
        yield (total, *shape), given if given.kind == "f" else own


def _blocks(
    explain: Explainer, inputs: list[Any], given: dict[str, Any], first: int, block: int | None, allow_nonfinite: bool
) -> Iterator[tuple[int, list[Any]]]:
    """(first sample, attributions) of one block after the other; draws as in one call of all samples."""
    total = inputs[0].shape[0]
    size = block or explain.stats.batch_size
    for start in range(first, total, size):
        stop = min(start + size, total)
        try:
            request = some(explain, inputs, given, slice(start, stop), allow_nonfinite)
            found = request.attributions(request.packages.run(request.call))
        except ExplainersError as error:
            raise _of_block(error, start, stop, total) from error
        yield start, list(map(on_host, found if isinstance(found, tuple) else (found,)))


def _of_block(error: ExplainersError, start: int, stop: int, total: int) -> ExplainersError:
    """The same error, counting the samples of the whole file, and saying which block they are in."""
    if stop - start == total:
        return error
    count = stop - start
    text = re.sub(rf"sample (\d+) of {count}\b", lambda m: f"sample {start + int(m[1])} of {total}", str(error))
    text = re.sub(r"at position (\d+)\b", lambda m: f"at position {start + int(m[1])}", text)
    found = type(error)(text)
    found.add_note(f"in the samples {start} to {stop - 1} of {total}")
    return found


@app.command(name="bench-call", epilog="Example: explainers bench-call digits.explainer --batch-size 1 --batch-size 32")
def bench_call(
    file: File,
    batch_size: Annotated[list[int] | None, typer.Option(help="Samples in a call.")] = None,
    seconds: Annotated[float, typer.Option(help="For each size.")] = 2.0,
    device: Device = None,
    setting: Setting = None,
) -> None:
    """How long calls of an explainer take, on random samples."""
    with told("bench-call"):
        explain = loaded(file, device, setting)
        table = Table("samples", "calls", "median ms", "99 % ms", "samples/s", "rows/s")
        for size in batch_size or [1, 32]:
            times, rows = _times(explain, size, seconds)
            median, late = np.percentile(times, [50, 99])
            table.add_row(
                str(size), str(len(times)), f"{1e3 * median:.3g}", f"{1e3 * late:.3g}", f"{size / median:,.0f}",
                f"{rows / sum(times):,.0f}",
            )  # fmt: skip
        console.print(table)


def _times(explain: Explainer, size: int, seconds: float) -> tuple[list[float], int]:
    """Seconds of each call, and the rows of the model that all of them took."""
    generator = np.random.default_rng(0)
    inputs = [
        generator.normal(size=(size, *spec.sample_shape)).astype(spec.host_dtype) if spec.floating else spec.blank(size)
        for spec in explain.signature.inputs
    ]  # fmt: skip
    for _ in range(3):
        explain(*inputs, target="max")
    times: list[float] = []
    before = explain.stats.rows
    while sum(times) < seconds or len(times) < 3:
        began = time.perf_counter()
        explain(*inputs, target="max")
        times.append(time.perf_counter() - began)
    return times, explain.stats.rows - before


@app.command(epilog="Example: explainers serve digits.explainer other.explainer --port 8080")
def serve(
    file: Annotated[list[Path], typer.Argument(help="Explainers' files, each served by its name.")],
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.")] = 8080,
    keys: Annotated[Path | None, typer.Option(help="Bearer tokens, one a line.", exists=True)] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve other machines without keys.")] = False,
    device: Device = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A limit of the server: name=value.")] = None,
) -> None:
    """Answer requests for explanations over HTTP: KServe V1, Open Inference Protocol V2, server-sent events."""
    with told("serve"):
        try:
            from .. import serve as serving
        except ImportError as error:
            raise InputError(f"{error}. Serving needs a few packages more: pip install 'explainers[serve]'") from error
        limits = sources.parameters(setting or [], list(serving.Settings.__dataclass_fields__))
        explainers: dict[str, Explainer] = {}
        for path in file:
            if path.stem in explainers:
                raise InputError(f"two files are called {path.stem!r}; names must differ")
            explainers[path.stem] = Explainer.load(path, device)
        serving.run(explainers, host, port, key_file=keys, insecure=insecure, **limits)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
