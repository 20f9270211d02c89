"""Compiling one method or several: which methods and backends are asked for, and what their explainers share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .. import methods
from ..backend import Backend, Traced, find, owner
from ..errors import ExplainersError, InputError, UnknownNameError, UnsupportedOperation
from ..graph import Graph, Value
from ..methods import Method
from ..run.call import Stats
from ..spec import Signature
from . import mixing

if TYPE_CHECKING:
    from .plan import Options


def resolved(method: Any) -> list[Method]:
    """The method, or all the methods of a list or tuple, as values.

    Raises
    ------
    UnknownNameError, InputError: not a method; in a list, the error names its position. An empty list.
    """
    if isinstance(method, (str, Method, type)) or not isinstance(method, Iterable):
        return [methods.resolve(method)]
    if not isinstance(method, (list, tuple)):  # a set has no order, and a generator can be read only once
        raise InputError(
            f"method is a {type(method).__name__}; give a name, a value of explainers.methods, or a list or tuple of "
            "these, whose order the explainers have"
        )
    if not method:
        raise InputError("the list of methods is empty; give at least one, such as ['gradient', 'deeplift']")
    values = []
    for place, item in enumerate(method):
        with naming(place, len(method)):
            values.append(methods.resolve(item))
    return values


@contextmanager
def naming(place: int, count: int | None, method: Method | None = None) -> Iterator[None]:
    """A context whose errors say which method of a list they are about. ``count``: of the list; None: there is none."""
    try:
        yield
    except ExplainersError as error:
        if count is not None and error.args:
            name = "" if method is None else f", {method.name!r}"
            error.args = (f"method {place} of 0 … {count - 1}{name}: {error.args[0]}", *error.args[1:])
        raise


def choose_backend(
    model: Any, method: Method, backend: str | None, engine: str, arrays: Sequence[Any]
) -> tuple[Backend, str]:
    """The backend of the model, and its engine, for a method.

    Raises
    ------
    UnknownNameError, UnsupportedOperation, BackendMissing, InputError
    """
    found = find(model, backend)
    if method.rule_set and found.forward_only and backend is None:  # a function of tensors, perhaps
        found = next(filter(None, map(owner, arrays)), found)
    engine = checked_engine(found, engine)
    if method.rule_set and found.forward_only:
        raise UnsupportedOperation(
            f"method {method.name!r} needs the derivative of the model (rule set {method.rule_set.name!r}), and "
            f"backend {found.name!r} only calls it (operation {getattr(model, '__qualname__', type(model))!s}). "
            "Use a forward-only method such as 'feature_ablation', or give the torch or TensorFlow model; for a "
            "function of tensors say so with backend='torch'."
        )
    return found, engine


def checked_engine(backend: Backend, engine: str) -> str:
    """An engine of the backend by name; ``"auto"``: its default one."""
    if engine == "auto":
        return backend.default_engine
    if engine not in backend.engines:
        raise UnknownNameError.among("engine", engine, backend.engines, where=f" of backend {backend.name!r}")
    return engine


@dataclass
class Shared:
    """What the explainers of one ``compile`` share: the traces of the model, and checks of them.

    It lives as long as that one call, with one model, one device and one dtype. Whatever tracing depends on may change
    between two calls without a sign (an attribute, a hook, a global of the user's file), so that nothing is kept for a
    later one.
    """

    signatures: dict[int, Signature] = field(default_factory=dict)  # by backend
    traces: dict[tuple[int, bool], Traced] = field(default_factory=dict)
    kept: dict[int, dict[Any, Any]] = field(default_factory=dict)  # the backends' own
    checked: set[tuple[int, Value, bool]] = field(default_factory=set)

    def trace(
        self, model: Any, backend: Backend, signature: Signature, examples: Sequence[Any], options: Options,
        elementary: bool, stats: Stats,
    ) -> Traced:  # fmt: skip
        """The model as a graph, traced at the first request, with weights that each explainer refreshes by itself."""
        own = id(backend)
        renewed = backend.calls and not backend.forward_only  # refresh gives the trace another copy of the model
        shares = self.signatures.setdefault(own, signature) == signature and not renewed
        traced = self.traces.get((own, elementary)) if shares else None
        if traced is None:
            traced = backend.trace(
                model, signature, device=options.device, dtype=options.dtype, examples=examples, elementary=elementary,
                kept=self.kept.setdefault(own, {}) if shares else None,
            )  # fmt: skip
            stats.model_traces += 1
            self.traces[own, elementary] = traced
        return replace(traced, weights=dict(traced.weights))

    def check_mixing(self, graph: Graph, traced: Traced, backend: Backend, derivative: bool) -> None:
        """:func:`mixing.check`, once for each explained output of a trace."""
        key = id(traced.graph), graph.outputs[0][1], derivative
        if key not in self.checked:
            mixing.check(graph, traced, backend, derivative=derivative)
            self.checked.add(key)
