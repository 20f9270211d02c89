"""Options that say how a model is compiled, declared once for all commands that compile one."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import typer

from ..explainer.api import Explainer
from ..methods import Method

Spec = Annotated[
    list[str] | None, typer.Option(help="An input: float32[1,28,28] (the sizes of one sample), or a file of examples.")
]
ReferenceSet = Annotated[str | None, typer.Option(help="@file.npy with a set of baselines, (B, …).")]
MethodName = Annotated[str | None, typer.Option(help="The method for a model: kernel_shap, occlusion, deeplift …")]
TableKind = Annotated[
    str | None,
    typer.Option("--tables", help="What a function gets for a parquet file: arrow, pandas or polars."),
]


@dataclass(frozen=True)
class ModelOptions:
    """How a model is compiled. The annotations are the options of the commands."""

    wrt: Annotated[list[str] | None, typer.Option(help="What to attribute to: inputs, or layers.")] = None
    model_output: Annotated[str | None, typer.Option(help="Which of several outputs to explain, or a layer.")] = None
    backend: Annotated[
        str | None, typer.Option(help="torch, tensorflow, or numpy for any function; by default chosen by the model.")
    ] = None
    engine: Annotated[str, typer.Option(help="torchscript, inductor, eager, graph, xla …")] = "auto"
    dtype: Annotated[str | None, typer.Option(help="float32, float64 or bfloat16.")] = None
    batch_size: Annotated[int | None, typer.Option(help="How many rows a package has.")] = None
    per_token: Annotated[bool, typer.Option("--per-token", help="Sum attributions over their last axis.")] = False
    strict: Annotated[bool, typer.Option("--strict", help="Fail if attributions do not add up.")] = False
    interacting: Annotated[
        bool, typer.Option("--interacting", help="The samples of a batch interact: run each call as one batch.")
    ] = False

    @property
    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults, by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {field.name: values[field.name] for field in dataclasses.fields(self)
                if values[field.name] not in (field.default, [])}  # fmt: skip

    def compile(self, model: Any, method: Method, inputs: Any, device: str | None, **more: Any) -> Explainer:
        """The model compiled with these options. ``more``: further arguments of :meth:`.Explainer.compile`."""
        arguments = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arguments["output"] = arguments.pop("model_output")
        arguments["wrt"] = arguments["wrt"] or None
        return Explainer.compile(model, method, inputs=inputs, device=device, **arguments, **more)


def with_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of :class:`ModelOptions`, which it receives as its argument ``options``."""
    declared = get_type_hints(ModelOptions, include_extras=True)
    hints = get_type_hints(command, include_extras=True)
    fields = dataclasses.fields(ModelOptions)
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name == "options":
            parameters += [
                parameter.replace(
                    name=f.name, annotation=declared[f.name], default=f.default, kind=parameter.KEYWORD_ONLY
                )
                for f in fields
            ]
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        options = ModelOptions(**{field.name: arguments.pop(field.name) for field in fields})
        command(options=options, **arguments)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
