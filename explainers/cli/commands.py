"""The commands. Each is a thin wrapper around the library."""

from __future__ import annotations

import signal
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .. import __version__, store, tables
from ..errors import ExplainersError, InputError
from ..explainer.api import Explainer
from ..explainer.explanation import on_host
from ..explainer.streaming import Stream
from ..file import signing, writing
from . import files, samples, sources, words
from .calls import (
    Baseline,
    Columns,
    Device,
    Explained,
    File,
    Inputs,
    Output,
    ProgramForm,
    Seed,
    Setting,
    Target,
    Trusted,
    Where,
    baseline_of,
    incomplete_warning,
    load_explainer,
    prepared,
    with_columns,
)
from .loading import Compiling, Subject, default_baseline, probe, served, unknown_inputs
from .options import MethodName, ModelOptions, ReferenceSet, Spec, TableKind, with_model_options
from .usage import UsageError, status_of

app = typer.Typer(name="explainers", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"explainers {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Compile an explanation of a trained model once, save it to a file, run it and serve it."""


messages = Console(stderr=True)
INTERRUPTED = 130
SAVE_INTERVAL = 0.1  # seconds between two saved states, from which an interrupted run continues


@contextmanager
def command_errors(command: str, status: int = 1) -> Iterator[None]:
    """Print the library's errors and warnings in the command's terms; exit with ``status`` after an error.

    Wrong usage always ends with status 2.
    """
    option_names = words.options(command)
    with warnings.catch_warnings():
        warnings.showwarning = partial(_show_warning, option_names, warnings.showwarning)
        try:
            yield
        except (ExplainersError, OSError) as error:
            where = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
            text = words.for_command(str(error), option_names)
            messages.print(f"error{where}: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(status_of(error, status)) from error
        except KeyboardInterrupt as error:
            messages.print("interrupted", style="red")
            raise typer.Exit(INTERRUPTED) from error


def _show_warning(
    option_names: Mapping[str, str], show_other: Any, message: Any, category: Any, *location: Any, **options: Any
) -> None:
    """Print a warning of the library in the command's terms; pass those of frameworks on."""
    text = words.for_command(str(message), option_names)
    if category.__module__.startswith("explainers") or text != str(message):
        warn(f"warning: {text}")
    else:
        show_other(message, category, *location, **options)


def destination(path: Path, option: str = "--output") -> None:
    """Check that a file can be written to ``path``, the value of ``option``, before anything is computed.

    Raises
    ------
    InputError: there is a folder, the folder for it is missing, or no file can be made there.
    """
    if writing.is_stream(path):
        return
    try:
        writing.check(path)
        with tempfile.TemporaryFile(dir=writing.place(path).parent):
            pass
    except OSError as error:
        reason = str(error) if error.strerror is None else f"its folder takes no new files ({error.strerror})"
        raise InputError(f"{option} {str(path)!r} cannot be written: {reason}") from error


def say(text: str, output: Path) -> None:
    """Print a result message; to standard error if ``output`` is a stream such as standard output."""
    where = messages if writing.is_stream(output) else console
    where.print(text, markup=False, highlight=False, soft_wrap=True)


def warn(text: str | None) -> None:
    if text:
        messages.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog="Example: explainers compile examples/digits.py:model deeplift -o digits.explainer --baseline 0")
@with_model_options
def compile(
    model: Annotated[str, typer.Argument(help="module:name, file.py:name, a .keras or .pt2 file, or a SavedModel.")],
    method: Annotated[str, typer.Argument(help="deeplift, integrated_gradients, shapley_sampling …")],
    output: Output,
    inputs: Spec = None,
    baseline: Annotated[str | None, typer.Option(help="A number, or @file.npy with one sample.")] = None,
    references: ReferenceSet = None,
    device: Device = None,
    program: Annotated[
        Literal["code", "data"] | None,
        typer.Option("--program", help="data: a list of operations; loading it executes nothing of the file."),
    ] = None,
    aot: Annotated[
        bool, typer.Option("--aot", help="Compile ahead of time, for engine inductor: nothing is compiled later.")
    ] = False,
    columns: Columns = None,
    setting: Setting = None,
    sign: Annotated[
        Path | None, typer.Option(help="A PEM file with the Ed25519 private key to sign the file with.")
    ] = None,
    *,
    options: ModelOptions,
) -> None:
    """Compile an explanation of a model into a file, which loads without the model's source."""
    with command_errors("compile"):
        destination(output)
        key = None if sign is None else signing.private_key(sign)
        value = sources.method(method, setting or [])
        default = default_baseline(baseline, references)
        savable = sources.savable_model(model, method, options.backend)
        explain = options.compile(savable, value, sources.specs(inputs or []), device, **default)
        if not explain.traced:
            raise UsageError(unknown_inputs(model))
        explain = with_columns(explain, columns)
        explain.save(output, aot=aot, program=program, sign=key)
        say(f"{output}: {explain}", output)


@app.command(epilog="Example: explainers run digits.explainer inputs.npy --target 3 -o scores.npy")
@with_model_options
def run(
    explainer: Explained,
    inputs: Inputs,
    output: Output,
    method: MethodName = None,
    target: Target = None,
    baseline: Baseline = None,
    references: ReferenceSet = None,
    seed: Seed = None,
    block: Annotated[int | None, typer.Option(help="How many samples are read and written at a time.")] = None,
    columns: Columns = None,
    where: Where = None,
    device: Device = None,
    setting: Setting = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard the results of an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    allow_nonfinite: Annotated[bool, typer.Option("--allow-nonfinite", help="Accept NaN and infinity.")] = False,
    table_kind: TableKind = None,
    trusted: Trusted = None,
    program: ProgramForm = None,
    *,
    options: ModelOptions,
) -> None:
    """Explain all samples of a file. If a run is interrupted, the same command resumes it."""
    signal.signal(signal.SIGTERM, _interrupt)
    with command_errors("run"):
        if block is not None and block < 1:
            raise UsageError(f"--block must be a number of samples ≥ 1; got {block}")
        if not (output.parent / output.name).is_dir() and output.parent.is_dir():
            destination(output)
        store.check(output, overwrite, [path for path in inputs if path.exists()], "--output")
        subject = Subject.of(explainer)
        compiling = Compiling(method, setting or (), options, device, table_kind, trusted, program)
        arrays = files.read(inputs)
        chosen = samples.choose(arrays, where) if where else None
        names = [condition.name for condition in chosen.conditions] if chosen else ()
        explain, bound_inputs = prepared(subject, compiling, chosen.arrays if chosen else arrays, columns, names)
        baseline_value, target_value = baseline_of(explain, baseline, references), sources.target(target)
        if chosen:
            target_value = chosen.target(target_value, explain.output.sample_shape)
            baseline_value = chosen.baseline(baseline_value, explain.attributed)
        arguments = {"target": target_value, "baseline": baseline_value, "seed": seed}
        settings = {"members": subject.identity(explain, compiling), "set": setting, "nonfinite": allow_nonfinite}
        key = files.fingerprint(inputs, {**arguments, **settings, "columns": columns, "where": where})
        output_file = store.Store(output, key, restart, overwrite, [*inputs, *subject.files], "--output")
        with closing(output_file):
            if not output_file.complete:
                output_file.check_model(probe(subject, explain, bound_inputs))
                size = block or explain.stats.batch_size
                stream = Stream.of(
                    explain, tuple(bound_inputs), block=size, allow_nonfinite=allow_nonfinite, warns=False, **arguments
                )  # fmt: skip
                _run(stream, bound_inputs, output_file)
        warn(incomplete_warning(explain))
        total = f"{bound_inputs[0].shape[0]}" + (f" of {chosen.total}" if chosen else "")
        console.print(f"{output_file.given}: {total} samples", markup=False, highlight=False, soft_wrap=True)


def _run(stream: Stream, inputs: list[Any], output_file: store.Store) -> None:
    explain, total = stream.explain, inputs[0].shape[0]
    if not total:
        raise InputError("there are no samples")
    names = [spec.name for spec in explain.attributed] if len(explain.attributed) > 1 else [""]
    output_file.allocate(dict(zip(names, _forms(explain, inputs, total), strict=True)))
    stream.first = output_file.done
    last_saved = time.monotonic()
    bar = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*bar, console=messages, disable=not messages.is_terminal) as progress:
        task = progress.add_task("samples", total=total, completed=output_file.done)
        try:
            with closing(stream.parts()) as parts:
                for part in parts:
                    results = part.result if isinstance(part.result, tuple) else (part.result,)
                    output_file.write(part.start, dict(zip(names, map(on_host, results), strict=True)))
                    progress.update(task, completed=output_file.done)
                    if time.monotonic() - last_saved > SAVE_INTERVAL:
                        output_file.keep()
                        last_saved = time.monotonic()
        except ExplainersError:
            if not output_file.done:
                output_file.forget()
            raise
        except KeyboardInterrupt:
            if output_file.arrays:
                output_file.keep()
                messages.print(f"{output_file.done} of {total} samples are done; the same command resumes from there")
            raise
    output_file.finish(_columns(explain, inputs))


def _columns(explain: Explainer, inputs: list[Any]) -> tuple[str, ...]:
    """The column names of the attributed input's table, in the order of its file."""
    table = dict(zip(explain.signature.names, inputs, strict=True)).get(explain.attributed[0].name)
    return tables.names(table) if tables.is_table(table) else ()


def _forms(explain: Explainer, inputs: list[Any], total: int) -> Iterator[store.Form]:
    """Of each attribution array for all samples; the dtype is that of its input."""
    dtypes = [tables.dtype(tables.rows(a, 0, 0)) if tables.is_table(a) else a.dtype for a in inputs]
    input_dtypes = dict(zip(explain.signature.names, map(np.dtype, dtypes), strict=True))
    sizes = explain.signature.sizes(inputs)
    for spec in (spec.at(sizes) for spec in explain.attributed):
        spec_dtype = np.dtype("float32" if spec.dtype == "bfloat16" else spec.dtype)
        dtype = input_dtypes.get(spec.name, input_dtypes[explain.signature.names[0]])
        shape = spec.sample_shape[:-1] if explain.per_token else spec.sample_shape
        yield store.Form((total, *shape), dtype if dtype.kind == "f" else spec_dtype)


@app.command(name="bench-call", epilog="Example: explainers bench-call digits.explainer --batch-size 1 --batch-size 32")
def bench_call(
    file: File,
    batch_size: Annotated[list[int] | None, typer.Option(help="How many samples a call has.", min=1)] = None,
    seconds: Annotated[float, typer.Option(help="How long to measure each size.", min=0)] = 2.0,
    device: Device = None,
    setting: Setting = None,
    trusted: Trusted = None,
    program: ProgramForm = None,
) -> None:
    """Measure how long calls of an explainer take, on random samples."""
    with command_errors("bench-call"):
        explain = load_explainer(file, device, setting, trusted, program)
        table = Table("samples", "calls", "median ms", "99 % ms", "samples/s", "rows/s")
        for size in batch_size or [1, 32]:
            times, rows = _times(explain, size, seconds)
            median, percentile_99 = np.percentile(times, [50, 99])
            table.add_row(
                str(size), str(len(times)), f"{1e3 * median:.3g}", f"{1e3 * percentile_99:.3g}",
                f"{size / median:,.0f}", f"{rows / sum(times):,.0f}",
            )  # fmt: skip
        console.print(table)


def _times(explain: Explainer, size: int, seconds: float) -> tuple[list[float], int]:
    """Seconds of each call, and the number of rows that the model evaluated in all calls."""
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
        start = time.perf_counter()
        explain(*inputs, target="max")
        times.append(time.perf_counter() - start)
    return times, explain.stats.rows - before


@app.command(epilog="Example: explainers serve digits.explainer other.explainer --port 8080")
@with_model_options
def serve(
    explainer: Annotated[
        list[str],
        typer.Argument(help="As for run; name=… serves it under that name instead of the name of the file or object."),
    ],
    method: MethodName = None,
    inputs: Spec = None,
    baseline: Annotated[str | None, typer.Option(help="The models' default baseline: a number, or @file.npy.")] = None,
    references: ReferenceSet = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.", min=0, max=65535)] = 8080,
    keys: Annotated[Path | None, typer.Option(help="A file of bearer tokens, one per line.", exists=True)] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let other machines send requests without a key.")
    ] = False,
    device: Device = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A limit of the server, or a parameter of the method: name=value.")
    ] = None,
    table_kind: TableKind = None,
    trusted: Trusted = None,
    program: ProgramForm = None,
    *,
    options: ModelOptions,
) -> None:
    """Answer requests for explanations over HTTP: KServe V1, Open Inference Protocol V2, server-sent events."""
    with command_errors("serve"):
        try:
            from .. import serve as serving
        except ImportError as error:
            raise InputError(f"{error}. The server needs more packages: pip install 'explainers[serve]'") from error
        limits, setting_of_method = sources.divided(setting or [], sources.kinds(serving.Settings), method)
        compiling = Compiling(method, setting_of_method, options, device, table_kind, trusted, program)
        default = default_baseline(baseline, references)
        explainers = served(explainer, compiling, inputs or [], default)
        serving.run(explainers, host, port, key_file=keys, insecure=insecure, **limits)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
