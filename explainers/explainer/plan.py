"""Plans: a traced model with the program that explains it, the explained output and the attributed values."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..backend import Backend, Traced
from ..errors import InputError, TargetError, TraceError, UnknownNameError
from ..graph import Function, Graph, Role, Value
from ..lengths import Length
from ..methods import METHODS, Method
from ..methods.base import ModelShapes
from ..program.walk import nested
from ..run import Packages
from ..run.call import Stats
from ..spec import STRING, Baseline, Signature, TensorSpec
from . import mixing
from .compiling import Shared

ALL = 1 << 40  # rows: each call runs as one package
MOST_SIZES = 256  # of axes that vary, whose plans are kept
CALLING = ("occlusion", "feature_ablation", "shapley_sampling", "kernel_shap", "lime")  # the methods to name first
NO_LAYERS = (
    "The model is called as it is, so that its layers cannot be seen. Engines other than 'eager' trace torch and "
    "TensorFlow models, and see their layers."
)
LONG = 20  # seconds of compiling that are announced beforehand
_LOCK = threading.Lock()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """The arguments of ``compile``."""

    wrt: Any
    output: Any
    baseline: Any
    engine: str
    device: Any
    dtype: str | None
    batch_size: int | None
    per_token: bool
    strict: bool = False
    interacting: bool = False
    every_output: bool = False
    incremental: bool = True


@dataclass(frozen=True)
class Plan:
    """A traced model with the program that explains it. Immutable, except for a cached baseline.

    ``specs``: of the attributions. ``places``: their positions among the inputs; None for a layer. ``loaded``: from
    a file, without the model and without the data to trace its operations again. ``alone``: the samples of a batch
    affect each other in a model that is called, so that each row is a package of its own.
    """

    traced: Traced
    packages: Packages
    graph: Graph
    wrt: tuple[Value, ...]
    specs: tuple[TensorSpec, ...]
    places: tuple[int | None, ...]
    loaded: bool = False
    alone: bool = False
    fixed: dict[int, Baseline] = field(default_factory=dict)
    of_sizes: dict[tuple[int, ...], Plan] = field(default_factory=dict)

    def at(self, sizes: Mapping[str, int]) -> Plan:
        """The plan for a call with these sizes of the axes that vary; those used last are kept."""
        key = tuple(sizes.values())
        found = self.of_sizes.get(key)
        if found is None:
            self.traced.signature.check(sizes)
            traced = replace(self.traced, signature=self.traced.signature.at(sizes))
            specs = tuple(spec.at(sizes) for spec in self.specs)
            packages = self.packages.at(sizes)
            found = replace(self, traced=traced, packages=packages, specs=specs, fixed={}, of_sizes={})
            with _LOCK:
                while len(self.of_sizes) >= MOST_SIZES:
                    del self.of_sizes[next(iter(self.of_sizes))]
                self.of_sizes[key] = found
        return found

    @cached_property
    def table_sizes(self) -> dict[int, int]:
        """For each input of ids, by position: the number of rows of the model's embedding table."""
        sizes = {place: self.graph.table_size(value) for place, value in enumerate(self.graph.inputs)}
        return {place: size for place, size in sizes.items() if size is not None}

    @property
    def moved(self) -> tuple[tuple[TensorSpec, int | None], ...]:
        """The values that have a baseline, with their positions among the inputs: the attributed ones, or all."""
        inputs = self.traced.signature.inputs
        if self.packages.method.moves_inputs:
            return tuple((spec, place) for place, spec in enumerate(inputs) if spec.floating)
        pairs = zip(self.specs, self.places, strict=True)
        return tuple((spec if place is None else inputs[place], place) for spec, place in pairs)


def trace(
    model: Any, backend: Backend, method: Method, options: Options, signature: Signature, examples: Sequence[Any],
    stats: Stats, shared: Shared | None = None,
) -> Plan:  # fmt: skip
    """Trace the model, or see what it returns if the backend calls it, and compile the first kernel."""
    with advised(backend, method):
        return _trace(model, backend, method, options, signature, examples, stats, shared or Shared())


@contextmanager
def advised(backend: Backend, method: Method) -> Iterator[None]:
    """A context in which the TraceError of an untraceable model says how it can be explained without a trace."""
    try:
        yield
    except TraceError as error:
        if backend.calling is None or backend.calls or not error.callable:
            raise
        if method.rule_set is None:
            advice = f"{method.name!r} needs only outputs: engine='eager' calls the model as it is, without a trace."
        else:
            known = ", ".join(repr(name) for name in CALLING)
            advice = (
                f"{method.name!r} needs the trace. Methods that need only outputs do without it, with engine='eager', "
                f"which calls the model as it is: {known}."
            )
        raise TraceError(f"{error}\n{advice}") from error.__cause__


def _trace(
    model: Any, backend: Backend, method: Method, options: Options, signature: Signature, examples: Sequence[Any],
    stats: Stats, shared: Shared,
) -> Plan:  # fmt: skip
    began = time.perf_counter()
    rules = method.rule_set
    _check_lengths(signature, backend, method, options)
    elementary = options.every_output or (rules is not None and rules.elementary)
    traced = shared.trace(model, backend, signature, examples, options, elementary, stats)
    traced.signature = _with_columns(traced.signature, signature)
    graph = _explained(traced.graph, method, options)
    _, result = graph.outputs[0]
    wrt, places = _pick_wrt(graph, traced.signature, options.wrt, method)
    _check_plain(graph, (result, *wrt))
    if rules is not None:
        _check_reached(graph, wrt, result)
    specs = _specs(graph, traced.signature, wrt, places)
    _check_words(specs, method)
    inputs = tuple(spec.sample_shape for spec in traced.signature.inputs if spec.floating)
    shapes = tuple(spec.sample_shape for spec in specs)
    method = method.fitted(ModelShapes(shapes, None in places, inputs, backend.channel_axis))
    specs = result_specs(graph, traced.signature, wrt, places, method)
    alone = False
    if options.interacting:
        _check_alone(method, backend, options)
    elif backend.calls:
        alone = mixing.check_called(graph, traced, backend, options.batch_size)
    else:
        shared.check_mixing(graph, traced, backend, derivative=rules is not None)
    seconds = time.perf_counter() - began
    stats.seconds_tracing += seconds
    packages = Packages(
        backend, traced, method, wrt, graph, engine=options.engine, stats=stats,
        batch_size=ALL if options.interacting else options.batch_size, every_output=options.every_output,
        incremental=options.incremental,
    )  # fmt: skip
    _tell_if_long(packages, seconds)
    if not backend.engines[options.engine]:
        packages.compile(1)
    elif options.batch_size is not None:
        packages.compile(packages.limit(options.batch_size))
    return Plan(traced, packages, graph, wrt, specs, places, alone=alone)


def _specs(
    graph: Graph, signature: Signature, wrt: Sequence[Value], places: Sequence[int | None]
) -> tuple[TensorSpec, ...]:
    """Of the attributed values: of inputs as the signature has them."""
    return tuple(
        signature.inputs[place] if place is not None
        else TensorSpec((None, *(d or 1 for d in graph.output(v).shape[1:])), graph.output(v).dtype, str(v))
        for v, place in zip(wrt, places, strict=True)
    )  # fmt: skip


def result_specs(
    graph: Graph, signature: Signature, wrt: Sequence[Value], places: Sequence[int | None], method: Method
) -> tuple[TensorSpec, ...]:
    """Of the attributions, for a method that is fitted to the model."""
    kind = graph.output(graph.outputs[0][1])
    return tuple(
        replace(
            spec,
            shape=(None, *method.result_shape(spec.sample_shape)),
            dtype=spec.dtype if spec.floating else kind.dtype,
        )
        for spec in _specs(graph, signature, wrt, places)
    )


def _explained(whole: Graph, method: Method, options: Options) -> Graph:
    """The part of the graph that computes the explained output, which is checked."""
    key, result = pick_output(whole, options.output)
    if method.explains_logits:
        result = whole.logits(result)
    graph = whole.restrict([(key, result)])
    kind = graph.output(result)
    if kind.floating and kind.shape.count(None) > 1:
        raise InputError(
            f"output {key!r} ({kind}) has the batch along {kind.shape.count(None)} axes: each sample's output depends "
            "on the others, as in a matrix of similarities. Explain a model whose samples have outputs of their own."
        )
    if not kind.floating or not kind.shape or kind.shape[0] is not None:
        raise InputError(
            f"output {key!r} ({kind}) cannot be explained: it must be floating-point with the batch as its "
            f"first axis. Pick another with output=; there are {_outputs(whole)}."
        )
    if options.every_output and any(isinstance(size, Length) for size in kind.shape):
        raise InputError(
            f"every_output=True needs a fixed number of outputs; {key!r} is {kind}. Give the size in inputs="
        )
    return graph


def _check_lengths(signature: Signature, backend: Backend, method: Method, options: Options) -> None:
    """Refuse axes that vary where the backend, the engine or the method needs their sizes."""
    if not signature.lengths:
        return
    advice = "Give the size, and compile an explainer for each size that you need"
    if not backend.takes_lengths:
        raise InputError(f"({signature}): backend {backend.name!r} needs all sizes but the batch's. {advice}.")
    if backend.engines[options.engine]:
        raise InputError(f"({signature}): engine {options.engine!r} compiles for fixed sizes. {advice}.")
    if not method.takes_lengths:
        known = ", ".join(repr(name) for name, kind in METHODS.items() if kind.takes_lengths)
        raise InputError(
            f"({signature}): {method.name!r} needs all sizes but the batch's. {advice}, or take one of {known}."
        )
    if method.has_groups:
        raise InputError(
            f"({signature}): groups for all samples do not fit samples of different sizes. Give them at each call."
        )


def _check_plain(graph: Graph, values: Sequence[Value]) -> None:
    """Refuse values whose size along an axis is computed from one that varies."""
    for value in values:
        odd = [size for size in graph.output(value).shape if isinstance(size, Length) and not size.plain]
        if odd:
            raise InputError(
                f"{graph.output(value)}: the size of an axis is computed from one that varies, which "
                "is not supported for the output and for layers that are attributed. Explain another, or give the size "
                "in inputs="
            )


def _tell_if_long(packages: Packages, seconds: float) -> None:
    """Log an estimate of the compile time if it is long. ``seconds``: how long tracing the model took.

    Rules are traced operation by operation, at two or three times the cost of the operation itself.
    """
    rules, walked = packages.program.rules, packages.program.walked
    expected = seconds * (3 if rules is not None and rules.contrast else 2)
    if rules is not None and rules.elementary and expected > LONG:
        op, times = Counter(node.op for node in walked).most_common(1)[0]
        _log.warning(
            "Compiling %r may take about %.0f s: its rules pass %s operations one by one (%s: %d times), and recurrent "
            "layers step by step. Save the explainer to do this once.",
            packages.method.name, expected, f"{len(walked):,}", op, times,
        )  # fmt: skip


def _with_columns(traced: Signature, given: Signature) -> Signature:
    """Add the names and the words of columns, which backends need not know."""
    specs = (replace(s, columns=g.columns, words=g.words) for s, g in zip(traced.inputs, given.inputs, strict=True))
    return replace(traced, inputs=tuple(specs))


def _check_words(specs: Sequence[TensorSpec], method: Method) -> None:
    """Refuse methods that compute with values, for tables with columns of words."""
    for spec in specs:
        if spec.words and (method.generates or not method.takes_integers):
            names = [repr(spec.columns[place]) if spec.columns else str(place) for place in spec.words.books]
            raise InputError(
                f"column {names[0]} of input {spec.name!r} holds no numbers, and {method.name!r} computes with them. "
                "Take a method that removes features as wholes, such as 'shapley_sampling', or encode the column before"
            )


def _check_alone(method: Method, backend: Backend, options: Options) -> None:
    """Refuse methods and options that need samples of their own: interacting ones only have a joint derivative."""
    if not method.single or _compares(method):
        raise InputError(
            f"interacting=True is for methods of one evaluation a sample, such as 'gradient'; {method.name!r} would "
            "mix the samples of a batch with rows that it makes itself"
        )
    if backend.engines[options.engine]:
        raise InputError(
            f"interacting=True needs an engine that takes any number of rows; {options.engine!r} pads them"
        )
    if options.batch_size is not None:
        raise InputError("interacting=True runs each call as one package; leave out batch_size")


def _check_reached(graph: Graph, wrt: tuple[Value, ...], result: Value) -> None:
    """Refuse a model in which every path to the output stops the derivative: attributions would all be 0."""
    reached, stops = set(wrt), []
    for node in graph:
        if any(value in reached for value in node.inputs):
            if node.role is Role.CONSTANT or node.function is Function.STOP_GRADIENT:
                stops.append(node)
            else:
                reached.update(v for v, out in zip(node.values, node.outputs, strict=True) if out.differentiable)
    stops = [node for node in stops if node.name in graph.needed([result]) and node.function is not Function.SHAPE]
    if result in reached or not stops:
        return
    last = stops[-1]
    raise InputError(
        "no derivative leads from the inputs to the output: it would be 0 everywhere. It is stopped last by "
        f"{last.op!r} (node {last.name!r}){f' at {last.source}' if last.source else ''}, such as a no_grad block, a "
        "detached tensor, or a comparison. Take it out of the model, or take a method that only runs it: 'occlusion'."
    )


def _outputs(graph: Graph) -> str:
    return ", ".join(f"{key!r}: {graph.output(value)}" for key, value in graph.outputs)


def pick_output(graph: Graph, output: int | str | None) -> tuple[str, Value]:
    if output is None:
        if len(graph.outputs) > 1:
            raise TargetError(f"the model has several outputs; pick one with output=: {_outputs(graph)}")
        return graph.outputs[0]
    known = dict(graph.outputs)
    if isinstance(output, int) and not isinstance(output, bool) and str(output) not in known:
        if -len(graph.outputs) <= output < len(graph.outputs):
            return graph.outputs[output]
    elif str(output) in known:
        return str(output), known[str(output)]
    elif isinstance(output, str) and output.removesuffix("@0") in graph.scopes():
        values = graph.layer(output)
        if len(values) > 1:
            kinds = ", ".join(str(graph.output(value)) for value in values)
            raise UnknownNameError(f"layer {output!r} has {len(values)} outputs ({kinds}): name one inside it")
        return output, values[0]
    if graph.called:
        raise UnknownNameError.among("output", output, known, NO_LAYERS)
    raise UnknownNameError.among("output or layer", output, [*known, *graph.scopes()])


def _pick_wrt(
    graph: Graph, signature: Signature, wrt: Any, method: Method
) -> tuple[tuple[Value, ...], tuple[int | None, ...]]:
    """The attributed values, with their places among the inputs (None for a layer's)."""
    if wrt is None:
        places = [i for i, spec in enumerate(signature.inputs) if spec.floating]
        if not places and method.takes_integers:
            places = [i for i, spec in enumerate(signature.inputs) if spec.dtype != STRING or not method.generates]
        if not places and graph.called:
            raise InputError(
                f"no input is floating-point ({signature}), and {method.name!r} attributes no other: take one that "
                "removes features, such as 'feature_ablation'"
            )
        if not places:
            layers = [path for path in graph.scopes() if "embed" in path.lower()] or graph.scopes()
            raise InputError(
                f"no input is floating-point ({signature}), so none can be attributed. Give wrt= a layer, such as "
                f"an embedding: {', '.join(layers[:8])}; or take a method that removes features, such as "
                "'feature_ablation'"
            )
        return tuple(graph.inputs[i] for i in places), tuple(places)
    wanted = list(wrt) if isinstance(wrt, (list, tuple)) else [wrt]
    found: list[tuple[Value, int | None]] = []
    for item in wanted:
        if isinstance(item, str) and item not in signature.names and item.removesuffix("@0") in graph.scopes():
            found += [(value, None) for value in graph.layer(item)]
        else:
            place = _input_place(graph, signature, item, method)
            found.append((graph.inputs[place], place))
    values = tuple(value for value, _ in found)
    if len(set(values)) < len(values):
        raise InputError(f"wrt={wrt!r} names the same values twice")
    rules = method.rule_set
    apart = rules is None or rules.elementary or not (method.single or method.moves_inputs)
    if len(wanted) > 1 and apart and nested(graph, values):
        raise InputError(
            f"wrt={wrt!r} names layers one behind the other, which {method.name!r} cannot attribute together: it moves "
            "them, or joins what lies between. Compile an explainer for each, or take a method of one derivative, such "
            "as 'gradient'"
        )
    return values, tuple(place for _, place in found)


def _compares(method: Method) -> bool:
    return method.rule_set is not None and method.rule_set.contrast


def _input_place(graph: Graph, signature: Signature, item: Any, method: Method) -> int:
    """The position of the input that ``item`` refers to by name or number, if the method can attribute it."""
    if isinstance(item, str) and item in signature.names:
        place = signature.names.index(item)
    elif isinstance(item, int) and not isinstance(item, bool) and 0 <= item < len(signature.inputs):
        place = item
    else:
        if graph.called:
            raise UnknownNameError.among("input", item, signature.names, NO_LAYERS)
        raise UnknownNameError.among(
            "input or layer", item, [*signature.names, *graph.scopes()], "Give names or positions of inputs, or layers."
        )
    spec = signature.inputs[place]
    if not spec.floating and (not method.takes_integers or (spec.dtype == STRING and method.generates)):
        raise InputError(
            f"input {spec} is not floating-point, which {method.name!r} needs; attribute a layer behind it with wrt=, "
            "or take a method that removes features, such as 'feature_ablation'"
        )
    return place
