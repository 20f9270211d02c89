"""The Explainer: compile once, call for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from . import counter, methods
from .backend import Backend, Traced, find, owner
from .call import Call, Chunk, Stats
from .contrasted import audit
from .coverage import Audit, Coverage
from .errors import BaselineError, InputError, NonFiniteError, TargetError, UnknownNameError, UnsupportedOperation
from .explanation import Explanation
from .graph import Graph, Value
from .methods import Method
from .spec import (
    Array,
    Baseline,
    Numpy,
    Signature,
    TensorSpec,
    check_finite,
    resolve_baseline,
    resolve_target,
)
from .work import Packages

Progress = bool | Callable[[int, int], None]


@dataclass(frozen=True)
class _Options:
    """What was asked of ``compile``."""

    wrt: Any
    output: Any
    baseline: Any
    engine: str
    device: Any
    dtype: str | None
    batch_size: int | None
    per_token: bool


@dataclass(frozen=True)
class Plan:
    """A traced model with the program that explains it. Immutable, but for a cached baseline."""

    traced: Traced
    packages: Packages
    graph: Graph
    wrt: tuple[Value, ...]
    specs: tuple[TensorSpec, ...]  # of the attributed values
    places: tuple[int | None, ...]  # of the attributed values among the inputs; None for a layer
    fixed: dict[int, Baseline]


@dataclass(frozen=True)
class Request:
    """A call of an explainer, bound and checked, before it runs."""

    explainer: Explainer
    plan: Plan
    call: Call
    bound: list[Any]
    inputs: Sequence[Any]
    named: Mapping[str, Any]

    @property
    def packages(self) -> Packages:
        return self.plan.packages

    @property
    def rows(self) -> int:
        """Evaluations of the model, as far as they are known beforehand."""
        baseline = self.call.baseline
        references = len(baseline) if baseline is not None and baseline.distribution else 1
        return len(self.call) * self.packages.rows_per_sample(references)

    def explanation(self, chunks: list[Chunk]) -> Explanation:
        """The result, from the chunks that the packages' run returned."""
        return self.explainer._explained(self, chunks)


class Explainer:
    """A compiled explanation of one model by one method: a function of inputs, target, baseline and seed.

    Made by :meth:`compile`. Calls are re-entrant: any number of threads may share one Explainer.
    """

    def __init__(self, model: Any, method: Method, backend: Backend, options: _Options) -> None:
        self.method = method
        self.stats = Stats()
        self._model = model
        self._backend = backend
        self._options = options
        self._plan: Plan | None = None
        self._uncovered: Coverage | None = None
        self._lock = threading.RLock()

    # --- compiling ---------------------------------------------------------------------------

    @classmethod
    def compile(
        cls,
        model: Any,
        method: str | Method,
        *,
        inputs: Any = None,
        wrt: Any = None,
        output: int | str | None = None,
        baseline: Any = 0.0,
        backend: str | None = None,
        engine: str = "auto",
        device: Any = None,
        dtype: Any = None,
        batch_size: int | None = None,
        per_token: bool = False,
    ) -> Explainer:
        """Trace ``model`` once, with inputs, target mask, baseline and seed as placeholders.

        Parameters
        ----------
        model: a torch.nn.Module, torch.export.ExportedProgram, Keras model, tf.Module, tf.function,
            the folder of a SavedModel, or any callable from arrays to an array.
        method: a name or a value of :mod:`explainers.methods`.
        inputs: example arrays or TensorSpecs (one, a tuple, or a dict by name), to trace a model now
            that does not carry its signature; otherwise it is traced at the first call.
        wrt: what is attributed: input names or positions, or the path of a layer, whose output is
            then attributed. Default: every floating-point input.
        output: which of several outputs, by key or position.
        baseline: the default baseline: a number, one sample, one per sample, References, a callable.
        backend: ``"torch"``, ``"tensorflow"`` or ``"numpy"``; by default from the model's type.
        engine: one of the backend's engines; ``"auto"`` takes its default.
        device: where to run; by default where the model is.
        dtype: ``"float32"``, ``"float64"`` or, on torch, ``"bfloat16"``; by default the model's.
        batch_size: rows in a work package; by default from the model's activations and free memory.
            Never changes results.
        per_token: sum attributions over their last axis: for an embedding layer, one number a token.

        Raises
        ------
        UnknownNameError, InputError, TraceError, UnsupportedOperation, BackendMissing
        """
        value = methods.resolve(method)
        found = find(model, backend)
        if engine == "auto":
            engine = found.default_engine
        elif engine not in found.engines:
            raise UnknownNameError.among(f"engine of backend {found.name!r}", engine, found.engines)
        if batch_size is not None and (not isinstance(batch_size, (int, np.integer)) or batch_size < 1):
            raise InputError(f"batch_size must be a whole number ≥ 1, or None; got {batch_size!r}")
        if value.rule_set and found.forward_only:
            raise UnsupportedOperation(
                f"method {value.name!r} needs the derivative of the model (rule set {value.rule_set.name!r}), and "
                f"backend {found.name!r} only calls it (operation {getattr(model, '__qualname__', type(model))!s}). "
                "Use a forward-only method such as 'feature_ablation', or give the torch or TensorFlow model."
            )
        kind = None if dtype is None else _dtype_name(dtype)
        if kind not in (None, "float32", "float64", "bfloat16"):
            raise InputError(f"dtype must be 'float32', 'float64' or 'bfloat16'; got {dtype!r}")
        options = _Options(wrt, output, baseline, engine, device, kind, batch_size, per_token)
        self = cls(model, value, found, options)
        args, kwargs = _as_arguments(inputs)
        signature = found.signature(model, args, kwargs)
        if signature is not None:
            self._prepare(signature, [*args, *kwargs.values()])
        return self

    def _prepare(self, signature: Signature, examples: Sequence[Any]) -> Plan:
        """Trace the model and compile the first kernel, once."""
        with self._lock:
            if self._plan is None:
                try:
                    self._plan = self._trace(signature, examples)
                except UnsupportedOperation as error:
                    self._uncovered = error.coverage
                    raise
            return self._plan

    def _trace(self, signature: Signature, examples: Sequence[Any]) -> Plan:
        options, backend = self._options, self._backend
        began = time.perf_counter()
        rules = self.method.rule_set
        traced = backend.trace(
            self._model, signature, device=options.device, dtype=options.dtype, examples=examples,
            elementary=rules is not None and rules.elementary,
        )  # fmt: skip
        key, result = _pick_output(traced.graph, options.output)
        if getattr(self.method, "logits", False):
            result = traced.graph.logits(result)
        graph = traced.graph.restrict([(key, result)])
        kind = graph.output(result)
        if not kind.floating or not kind.shape or kind.shape[0] is not None:
            raise InputError(
                f"output {key!r} ({kind}) cannot be explained: it must be floating-point with the batch as its "
                f"first axis. Pick another with output=; there are {_outputs(traced.graph)}."
            )
        wrt, places = _pick_wrt(graph, traced.signature, options.wrt)
        specs = tuple(
            traced.signature.inputs[place] if place is not None
            else TensorSpec((None, *(d or 1 for d in graph.output(v).shape[1:])), graph.output(v).dtype, str(v))
            for v, place in zip(wrt, places, strict=True)
        )  # fmt: skip
        self.stats.seconds_tracing += time.perf_counter() - began
        packages = Packages(
            backend, traced, self.method, wrt, graph,
            engine=options.engine, batch_size=options.batch_size, stats=self.stats,
        )  # fmt: skip
        if not backend.engines[options.engine]:
            packages.compile(1)
        elif options.batch_size is not None:
            packages.compile(packages.limit(options.batch_size))
        return Plan(traced, packages, graph, wrt, specs, places, {})

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Plan, list[Any]]:
        """The plan and the inputs in the signature's order; traces at the first call."""
        if len(args) == 1 and not kwargs and isinstance(args[0], (dict, tuple)):
            args, kwargs = _as_arguments(args[0])
        plan = self._plan
        if plan is None:
            if not args and not kwargs:
                raise InputError("no inputs given")
            signature = self._backend.signature(self._model, args, kwargs)
            assert signature is not None
            plan = self._prepare(signature, signature.bind(args, dict(kwargs)))
        return plan, plan.traced.signature.bind(args, dict(kwargs))

    # --- calling -----------------------------------------------------------------------------

    def __call__(
        self,
        *inputs: Any,
        target: Any = None,
        baseline: Any = None,
        seed: Any = None,
        batch_size: int | None = None,
        progress: Progress = False,
        allow_nonfinite: bool = False,
        attribution: Any = None,
        **named: Any,
    ) -> Any:
        """Attributions of ``target`` to the inputs.

        Parameters
        ----------
        inputs, named: arrays (numpy, torch, TensorFlow, dlpack) of shape (N, …), as the model takes
            them: one, several, a tuple, or by name (keywords or one dict).
        target: an int or index tuple into the output, one per sample, a dense mask, ``"max"``, or, for
            forward-only methods, ``"all"`` (output axes then lead in the result).
        baseline: in place of the default given to ``compile``.
        seed: for sampled methods: an int, or one per sample. Default 0.
        batch_size: rows in a package, for this call.
        progress: True for a bar over rows, or a function of (rows done, rows in total).
        allow_nonfinite: let NaN and infinity through, in inputs and results.
        attribution: for ``Perturbation``: what its generator is given, of the attributed inputs' shapes.

        Returns
        -------
        Arrays of the shape, type, dtype and device of the attributed inputs: one for one, a tuple for
        several, a dict where inputs were given by name. For a layer: the shape of its output.

        Raises
        ------
        InputError, NonFiniteError, TargetError, BaselineError, NotConverged
        """
        plan, bound, call = self._call(inputs, named, target, baseline, seed, batch_size, progress, allow_nonfinite)
        call.attribution = self._given_attribution(plan, attribution, len(call))
        if not len(call):
            return self._structured(plan, inputs, named, bound, self._empty(plan, call))
        chunks = plan.packages.run(call)
        results = self._joined(plan, bound, chunks, call)
        return self._structured(plan, inputs, named, bound, results)

    def explanation(
        self,
        *inputs: Any,
        target: Any = None,
        baseline: Any = None,
        seed: Any = None,
        batch_size: int | None = None,
        progress: Progress = False,
        allow_nonfinite: bool = False,
        attribution: Any = None,
        **named: Any,
    ) -> Explanation:
        """The attributions with the outputs, baseline outputs, completeness gap and standard error.

        Parameters and errors as for calling; see :class:`Explanation` for what it holds.
        """
        request = self.request(
            *inputs, target=target, baseline=baseline, seed=seed, batch_size=batch_size, progress=progress,
            allow_nonfinite=allow_nonfinite, attribution=attribution, **named,
        )  # fmt: skip
        return request.explanation(request.packages.run(request.call))

    def request(
        self,
        *inputs: Any,
        target: Any = None,
        baseline: Any = None,
        seed: Any = None,
        batch_size: int | None = None,
        progress: Progress = False,
        allow_nonfinite: bool = False,
        attribution: Any = None,
        **named: Any,
    ) -> Request:
        """A call as :meth:`explanation` takes it, bound and checked but not run: for schedulers."""
        plan, bound, call = self._call(
            inputs, named, target, baseline, seed, batch_size, progress, allow_nonfinite, details=True
        )
        call.attribution = self._given_attribution(plan, attribution, len(call))
        return Request(self, plan, call, bound, inputs, named)

    def _explained(self, request: Request, chunks: list[Chunk]) -> Explanation:
        plan, bound, call, inputs, named = request.plan, request.bound, request.call, request.inputs, request.named
        results = self._joined(plan, bound, chunks, call) if chunks else self._empty(plan, call)
        shape = plan.packages.output_shape
        outputs = _concatenated([c.outputs for c in chunks], shape)
        baselines = None
        if chunks and chunks[0].baseline_outputs is not None:
            baselines = _concatenated([c.baseline_outputs for c in chunks], shape)
        mask: Numpy | str = "all" if call.target.kind == "all" else _mask(call, chunks)
        gap = None
        if self.method.complete and baselines is not None and not isinstance(mask, str):
            weights = self.method.weights(_OnHost, mask.astype(np.float64))
            change = _scalar(outputs, weights) - _scalar(baselines, weights)
            gap = np.concatenate([self._total(chunk) for chunk in chunks]) - change
        errors = None
        if chunks and chunks[0].standard_errors[0] is not None:
            joined = [np.concatenate([_present(c.standard_errors[i]) for c in chunks]) for i in range(len(plan.wrt))]
            errors = self._structured(
                plan, inputs, named, bound, [self._finished(plan, bound, i, e) for i, e in enumerate(joined)]
            )
        rows = np.full(len(call), plan.packages.count)
        if chunks and chunks[0].evaluations is not None:
            rows = np.concatenate([_present(c.evaluations) for c in chunks])
        return Explanation(
            self._structured(plan, inputs, named, bound, results),
            outputs,
            baselines,
            mask,
            gap,
            errors,
            rows,
            self.method,
            self.coverage.approximate,
        )

    def _total(self, chunk: Chunk) -> Numpy:
        """Σ attribution of each sample of the chunk."""
        if chunk.totals is not None:
            return chunk.totals
        parts = [self._host(array) for array in chunk.attributions]
        total: Numpy = np.sum([p.reshape(len(p), -1).sum(axis=1, dtype=np.float64) for p in parts], axis=0)
        return total

    def _call(
        self, inputs: Sequence[Any], named: Mapping[str, Any], target: Any, baseline: Any, seed: Any,
        batch_size: int | None, progress: Progress, allow_nonfinite: bool, details: bool = False,
    ) -> tuple[Plan, list[Any], Call]:  # fmt: skip
        plan, bound = self._bound(inputs, named)
        arrays = [self._array(value, spec) for value, spec in zip(bound, plan.traced.signature.inputs, strict=True)]
        count = int(arrays[0].shape[0])
        for array, spec in zip(arrays, plan.traced.signature.inputs, strict=True):
            if array.shape[0] != count:
                raise InputError(f"input {spec.name!r} has {array.shape[0]} samples, the first input {count}")
        if batch_size is not None and (not isinstance(batch_size, (int, np.integer)) or batch_size < 1):
            raise InputError(f"batch_size must be a whole number ≥ 1; got {batch_size!r}")
        method = self.method
        resolved = resolve_target(self._plain(target), plan.packages.output_shape, count, method.rule_set is None)
        chosen = None
        if method.baseline != "none":
            chosen = self._baseline(plan, baseline, count, bound)
        elif baseline is not None:
            raise BaselineError(f"method {method.name!r} has no baseline; got one of type {type(baseline).__name__}")
        seeds = counter.sample_seeds(seed, count) if method.sampled else None
        references = len(chosen) if chosen is not None and chosen.distribution else 1
        rows = plan.packages.rows_per_sample(references) if progress else 0
        report = _reporter(progress, count * rows) if progress and count else None
        self.stats.called()
        size = int(batch_size or plan.packages.batch_size)
        call = Call(count, arrays, resolved, chosen, seeds, size, not allow_nonfinite, details, report)
        return plan, bound, call

    def _given_attribution(self, plan: Plan, given: Any, count: int) -> list[Numpy] | None:
        if given is None:
            return None
        if not isinstance(self.method, methods.Perturbation):
            raise InputError(f"attribution= is for the method Perturbation; this is {self.method.name!r}")
        parts = [self._to_numpy(part, "attribution") for part in (given if isinstance(given, tuple) else (given,))]
        wanted = [(count, *spec.sample_shape) for spec in plan.specs]
        if [part.shape for part in parts] != wanted:
            raise InputError(f"attribution has shape {[p.shape for p in parts]}; the attributed inputs have {wanted}")
        return parts

    def _array(self, value: Any, spec: TensorSpec) -> Array:
        """An input as numpy or as the backend's own array, its kind and shape checked."""
        if isinstance(value, np.ndarray) or self._backend.owns(value):
            array = value
        else:
            array = self._to_numpy(value, f"input {spec.name!r}")
        dtype = _dtype_name(array.dtype)
        floating = dtype.startswith(("float", "bfloat"))
        if floating != spec.floating or not (floating or dtype.startswith(("int", "uint", "bool"))):
            advice = f"convert it with .astype({spec.dtype!r})" if spec.floating else f"give {spec.dtype}"
            raise InputError(f"input {spec.name!r} has dtype {dtype}, the model takes {spec.dtype}: {advice}")
        shape = tuple(array.shape)
        if shape[1:] != spec.sample_shape or not shape:
            hint = " A batch axis is missing: x[None]." if shape == spec.sample_shape else ""
            raise InputError(
                f"input {spec.name!r} has shape {shape}, the model takes {('N', *spec.sample_shape)}.{hint}"
            )
        return array

    def _to_numpy(self, value: Any, what: str) -> Numpy:
        home = owner(value)
        if home is not None:
            return home.numpy(value)
        try:
            if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
                return np.from_dlpack(value)
            array = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"{what} of type {type(value).__name__} is not an array: {error}") from error
        if array.dtype.kind not in "fiub":
            raise InputError(f"{what} of type {type(value).__name__} is not an array of numbers (dtype {array.dtype})")
        return array

    def _plain(self, target: Any) -> Any:
        home = None if target is None or isinstance(target, (int, str)) else owner(target)
        return home.numpy(target) if home else target

    def _baseline(self, plan: Plan, given: Any, count: int, bound: list[Any]) -> Baseline:
        fixed = given is None
        if fixed:
            if 0 in plan.fixed:
                return plan.fixed[0]
            given = self._options.baseline

        def batch() -> Any:
            parts = [bound[place] for place in plan.places if place is not None] or bound
            return parts[0] if len(parts) == 1 else tuple(parts)

        resolved = resolve_baseline(given, plan.specs, count, batch, lambda a: self._to_numpy(a, "baseline"))
        if resolved.distribution and self.method.baseline == "point":
            raise BaselineError(
                f"method {self.method.name!r} takes one baseline for each sample, not References; "
                "'gradient_shap', 'deeplift_shap' and 'shapley_sampling' average over references"
            )
        if self.method.baseline == "references" and not resolved.distribution and not resolved.per_sample:
            resolved = Baseline(resolved.tables, distribution=True)
        if resolved.per_sample and self.method.name == "deeplift_shap":
            raise BaselineError(
                "method 'deeplift_shap' takes References(array), the same for all samples; for one baseline for "
                "each sample use 'deeplift'"
            )
        if fixed and not callable(given) and not resolved.per_sample:
            resolved = replace(resolved, fixed=True)
            plan.fixed[0] = resolved  # the same for every later call
        return resolved

    # --- results -----------------------------------------------------------------------------

    def _joined(self, plan: Plan, bound: list[Any], chunks: list[Chunk], call: Call) -> list[Any]:
        """One array for each attributed value, of the type that was given."""
        results = []
        for i in range(len(plan.wrt)):
            if len(chunks) == 1:
                array = chunks[0].attributions[i]
            else:
                axis = chunks[0].attributions[i].ndim - 1 - len(plan.specs[i].sample_shape)
                parts = [self._host(chunk.attributions[i]) for chunk in chunks]
                array = np.concatenate(parts, axis=axis)
            place = plan.places[i]
            if isinstance(bound[place or 0], np.ndarray):
                array = self._host(array)
            if call.check:
                self._check_result(array, call)
            results.append(self._finished(plan, bound, i, array))
        return results

    def _check_result(self, array: Array, call: Call) -> None:
        if np.isfinite(array).all() if isinstance(array, np.ndarray) else self._backend.finite(array):
            return
        host = self._host(array)
        if call.target.kind != "all":
            check_finite(host, "the attribution (the model's derivative or output is not finite there)")
        raise NonFiniteError("an attribution is not finite; pass allow_nonfinite=True to let it through")

    def _finished(self, plan: Plan, bound: list[Any], index: int, array: Any) -> Any:
        """``array`` with the type, dtype and device of the input that it belongs to."""
        if self._options.per_token:
            array = self._host(array).sum(-1)
        place = plan.places[index]
        given = bound[place if place is not None else 0]
        if isinstance(given, np.ndarray):
            host = self._host(array)
            return host.astype(given.dtype, copy=False) if given.dtype.kind == "f" else host
        home = self._backend if self._backend.owns(given) else owner(given)
        if home is None:
            return self._host(array)
        return home.like(array if home is self._backend else self._host(array), given)

    def _host(self, array: Array) -> Numpy:
        return array if isinstance(array, np.ndarray) else self._backend.numpy(array)

    def _structured(
        self, plan: Plan, inputs: Sequence[Any], named: Mapping[str, Any], bound: list[Any], results: list[Any]
    ) -> Any:
        """The results in the structure that the inputs came in."""
        by_name = bool(named) or (len(inputs) == 1 and isinstance(inputs[0], dict))
        if by_name and all(place is not None for place in plan.places):
            return {spec.name: result for spec, result in zip(plan.specs, results, strict=True)}
        return results[0] if len(results) == 1 else tuple(results)

    def _empty(self, plan: Plan, call: Call) -> list[Any]:
        lead = plan.packages.output_shape if call.target.kind == "all" else ()
        bound = call.inputs
        shapes = [(*lead, 0, *spec.sample_shape) for spec in plan.specs]
        dtypes = ["float32" if spec.dtype == "bfloat16" else spec.dtype for spec in plan.specs]
        arrays = [np.zeros(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        return [self._finished(plan, bound, i, array) for i, array in enumerate(arrays)]

    # --- looking inside ----------------------------------------------------------------------

    def warmup(self, batch_sizes: Sequence[int] | int = (1,)) -> Explainer:
        """Compile and run the kernels that calls of these sizes need, on zeros. Returns itself."""
        plan = self._ready("warmup")
        sizes = [batch_sizes] if isinstance(batch_sizes, int) else list(batch_sizes)
        for size in sizes:
            if size < 1:
                raise InputError(f"batch sizes must be ≥ 1; got {size}")
            rows = min(size * plan.packages.count, plan.packages.batch_size)
            plan.packages.compile(rows)
            if not self._backend.forward_only:
                self._run_on_zeros(plan, size)
        return self

    def _run_on_zeros(self, plan: Plan, size: int) -> None:
        signature = plan.traced.signature
        zeros = {
            s.name: np.zeros((size, *s.sample_shape), "float32" if s.floating else s.dtype) for s in signature.inputs
        }
        mask = np.zeros(plan.packages.output_shape, np.float32)
        target = mask if mask.ndim else None
        for _ in range(3):  # TorchScript specializes in its first runs
            if plan.packages.program.design is None:
                self(zeros, target=target, allow_nonfinite=True)
            else:  # zeros need not be samples that the method takes
                call = self._call((zeros,), {}, target, None, None, None, False, True)[2]
                plan.packages.run_endpoints(call)

    def _ready(self, what: str) -> Plan:
        if self._plan is None:
            raise InputError(
                f"{what} needs a traced model, and this one is traced at its first call. Give inputs= (example "
                "arrays or TensorSpecs) to Explainer.compile, or call the explainer first."
            )
        return self._plan

    @property
    def device(self) -> Any:
        """Where the kernels run, as the framework names it."""
        return self._ready("device").traced.device

    @property
    def signature(self) -> Signature:
        """The model's inputs."""
        return self._ready("signature").traced.signature

    @property
    def attributed(self) -> tuple[TensorSpec, ...]:
        """What is attributed: inputs, or the values of a layer; in the order of the results."""
        return self._ready("attributed").specs

    @property
    def output(self) -> TensorSpec:
        """The output that is explained."""
        plan = self._ready("output")
        key, value = plan.graph.outputs[0]
        return TensorSpec((None, *plan.packages.output_shape), plan.graph.output(value).dtype, str(key))

    @property
    def graph(self) -> Graph:
        """The traced graph; ``print`` shows it as text."""
        return self._ready("graph").graph

    @property
    def coverage(self) -> Coverage:
        """Every kind of operation of the graph: count, role, the rule that passes it, and how exactly."""
        if self._plan is None and self._uncovered is not None:
            return self._uncovered
        return self._ready("coverage").packages.program.coverage()

    def audit(
        self, *inputs: Any, target: Any = None, baseline: Any = None, allow_nonfinite: bool = False, **named: Any
    ) -> Audit:
        """By how much each operation breaks completeness, the worst first: the node to look at.

        For methods that compare with a reference (DeepLIFT): Σ m·Δ over a node's inputs less Σ m·Δ over
        its outputs, in units of the explained output, for each sample. Arguments as for calling.

        Raises
        ------
        UnsupportedOperation: for methods that are not complete at every node.
        """
        plan, _, call = self._call(inputs, named, target, baseline, None, None, False, allow_nonfinite)
        if plan.packages.references is None:
            raise UnsupportedOperation(
                f"audit needs a method that is complete at every operation, such as 'deeplift'; this is {self.method}"
            )
        return Audit.of(audit(plan.packages, call) if len(call) else [])

    @property
    def native(self) -> Any:
        """The framework's own compiled function of the placeholders, in the order of ``placeholders``."""
        packages = self._ready("native").packages
        return packages.kernel(packages.bucket(packages.limit(packages.batch_size))).native

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Names of the arguments of ``native``, in order."""
        return tuple(p.name for p in self._ready("placeholders").packages.program.placeholders)

    def replace(self, **effort: Any) -> Explainer:
        """An explainer of other effort that shares everything compiled: ``explain.replace(steps=128)``.

        ``effort``: parameters of the method that say how much is evaluated, not what: those in the method's
        ``effort``, such as ``steps``, ``permutations`` or ``tolerance``.

        Raises
        ------
        UnknownNameError: for a parameter that is not one of these. InputError: as the method raises it.
        """
        for name in effort:
            if name not in self.method.effort:
                raise UnknownNameError.among(f"effort of method {self.method.name!r}", name, self.method.effort)
        plan = self._ready("replace")
        other = Explainer(self._model, replace(self.method, **effort), self._backend, self._options)
        other.stats = self.stats
        other._plan = replace(plan, packages=plan.packages.variant(other.method))
        return other

    def refresh(self) -> Explainer:
        """Take over the model's weights as they are now. Does not retrace. Returns itself."""
        plan = self._ready("refresh")
        plan.packages.refresh(self._backend.refresh(self._model, plan.traced))
        return self

    def __repr__(self) -> str:
        where = f"{self._backend.name}/{self._options.engine}"
        inputs = f"({self._plan.traced.signature})" if self._plan else "(traced at the first call)"
        return f"Explainer({self.method}, {where}, {inputs})"


def _as_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if inputs is None:
        return (), {}
    if isinstance(inputs, dict):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple) else (inputs,)), {}


@lru_cache(maxsize=256)
def _dtype_name(dtype: Any) -> str:
    """``float32`` for numpy's, torch's or TensorFlow's."""
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    return str(name).removeprefix("torch.")


def _outputs(graph: Graph) -> str:
    return ", ".join(f"{key!r}: {graph.output(value)}" for key, value in graph.outputs)


def _pick_output(graph: Graph, output: int | str | None) -> tuple[str, Value]:
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
    raise UnknownNameError.among("output", output, known)


def _pick_wrt(graph: Graph, signature: Signature, wrt: Any) -> tuple[tuple[Value, ...], tuple[int | None, ...]]:
    """The attributed values, with their places among the inputs (None for a layer's)."""
    if wrt is None:
        places = [i for i, spec in enumerate(signature.inputs) if spec.floating]
        if not places:
            layers = [path for path in graph.scopes() if "embed" in path.lower()] or graph.scopes()
            raise InputError(
                f"no input is floating-point ({signature}), so none can be attributed. Give wrt= a layer, such as "
                f"an embedding: {', '.join(layers[:8])}"
            )
        return tuple(graph.inputs[i] for i in places), tuple(places)
    wanted = list(wrt) if isinstance(wrt, (list, tuple)) else [wrt]
    if len(wanted) == 1 and isinstance(wanted[0], str) and wanted[0] not in signature.names:
        if wanted[0].removesuffix("@0") in graph.scopes():
            values = graph.layer(wanted[0])
            return values, tuple(None for _ in values)
        raise UnknownNameError.among("input or layer", wanted[0], [*signature.names, *graph.scopes()])
    places = []
    for item in wanted:
        if isinstance(item, str) and item in signature.names:
            places.append(signature.names.index(item))
        elif isinstance(item, int) and not isinstance(item, bool) and 0 <= item < len(signature.inputs):
            places.append(item)
        else:
            raise UnknownNameError.among(
                "input", item, signature.names, "Give names or positions of inputs, or one layer."
            )
    for place in places:
        if not signature.inputs[place].floating:
            raise InputError(
                f"input {signature.inputs[place]} is not floating-point; attribute a layer behind it with wrt="
            )
    return tuple(graph.inputs[i] for i in places), tuple(places)


def _reporter(progress: Progress, total: int) -> Callable[[int], None]:
    """Adds up the rows of packages and shows them."""
    done = 0
    if progress is True:
        from tqdm.auto import tqdm

        bar = tqdm(total=total, unit="row", unit_scale=True)

        def show(rows: int) -> None:
            bar.update(rows)
            if bar.n >= total:
                bar.close()

        return show
    assert callable(progress)

    def report(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, total)

    return report


class _OnHost:
    """What ``Method.weights`` uses of the array namespace, in numpy."""

    @staticmethod
    def row_mean(array: Numpy) -> Numpy:
        return array.mean(axis=-1, keepdims=True) if array.ndim > 1 else np.zeros_like(array)


def _concatenated(parts: Sequence[Numpy | None], shape: tuple[int, ...]) -> Numpy:
    return np.concatenate([_present(p) for p in parts]) if parts else np.zeros((0, *shape), np.float32)


def _present(array: Numpy | None) -> Numpy:
    assert array is not None
    return array


def _scalar(outputs: Numpy, mask: Numpy) -> Numpy:
    """s = Σ w·f for each sample."""
    result: Numpy = (outputs * mask).sum(axis=tuple(range(1, outputs.ndim)), dtype=np.float64)
    return result


def _mask(call: Call, chunks: list[Chunk]) -> Numpy:
    if call.target.kind != "max":
        return call.target.mask(0, len(call), "float32")
    masks = [c.target.mask(0, c.stop - c.start, "float32") for c in chunks if c.target]
    return np.concatenate(masks) if masks else call.target.mask(0, 0, "float32")
