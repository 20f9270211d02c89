"""The Explainer: compile an explanation once, then call it as often as you like."""

from __future__ import annotations

import inspect
import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, overload

import numpy as np

from .. import random_numbers, tables
from ..backend import WARM_RUNS, Backend, device_name, on_host
from ..errors import (
    ArtifactError,
    BaselineError,
    InputError,
    TargetError,
    UnknownNameError,
    UnsupportedOperation,
)
from ..file import container, signing
from ..forks import Home
from ..graph import Graph, Value
from ..graph.coverage import Audit, Coverage
from ..methods import FeatureAblation, Method
from ..run import Packages
from ..run.call import Call, Stats, reporter
from ..run.contrasted import audit
from ..spec import BatchReferences, Numpy, Signature, Target, TensorSpec, resolve_target
from . import bind, compiling, ensembles, plan, saving
from .bind import Asked, Inputs, checked_size, dtype_name
from .ensembles import EnsembleExplainer
from .estimating import Estimate, estimate
from .explanation import Explanation
from .neutral import neutrally
from .plan import Options, Plan
from .request import Request
from .states import States
from .streaming import Stream
from .to_disk import to_disk
from .unbind import Results

Progress = bool | Callable[[int, int], None]
MOST_FIXED = 16  # sizes of axes that vary that are traced by themselves


P = ParamSpec("P")
R = TypeVar("R")


def with_the_arguments_of(
    known: Callable[P, Any],
) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Give the decorated method the signature of ``known``, which spells out the keywords that it passes on."""

    def signed(method: Callable[..., R]) -> Callable[P, R]:
        result = inspect.signature(method).return_annotation
        method.__signature__ = inspect.signature(known).replace(return_annotation=result)  # type: ignore[attr-defined]
        return method

    return signed


class Explainer:
    """A compiled explanation of one model by one method: a function of inputs, target, baseline and seed.

    Made by :meth:`compile`. Calls are re-entrant: any number of threads may share one Explainer.
    """

    def __init__(self, model: Any, method: Method, backend: Backend, options: Options) -> None:
        self.method = method
        self.stats = Stats()
        self._model = model
        self._backend = backend
        self._options = options
        self._plan: Plan | None = None
        self._by_first_call = False
        self._of_other_dtypes: dict[tuple[str, ...], Plan] = {}
        self._of_other_sizes: dict[tuple[tuple[str, int], ...], Plan] = {}  # that the trace does not hold for
        self._uncovered: Coverage | None = None
        self._known = bind.KnownInputs(backend)
        self._lock = threading.RLock()
        self._home = Home("this explainer", backend.has_threads)

    # --- compiling ---------------------------------------------------------------------------

    @overload
    @classmethod
    def compile(
        cls,
        model: Any,
        method: str | Method | type[Method],
        *,
        inputs: Any = ...,
        wrt: Any = ...,
        output: int | str | None = ...,
        baseline: Any = ...,
        backend: str | None = ...,
        engine: str = ...,
        device: Any = ...,
        dtype: Any = ...,
        batch_size: int | None = ...,
        per_token: bool = ...,
        strict: bool = ...,
        interacting: bool = ...,
        every_output: bool = ...,
        incremental: bool | str = ...,
    ) -> Explainer: ...

    @overload
    @classmethod
    def compile(
        cls,
        model: Any,
        method: Sequence[str | Method | type[Method]],
        *,
        inputs: Any = ...,
        wrt: Any = ...,
        output: int | str | None = ...,
        baseline: Any = ...,
        backend: str | None = ...,
        engine: str = ...,
        device: Any = ...,
        dtype: Any = ...,
        batch_size: int | None = ...,
        per_token: bool = ...,
        strict: bool = ...,
        interacting: bool = ...,
        every_output: bool = ...,
        incremental: bool | str = ...,
    ) -> list[Explainer]: ...

    @classmethod
    def compile(
        cls,
        model: Any,
        method: str | Method | type[Method] | Sequence[str | Method | type[Method]],
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
        strict: bool = False,
        interacting: bool = False,
        every_output: bool = False,
        incremental: bool | str = "auto",
    ) -> Any:
        """Trace ``model`` once, with inputs, target mask, baseline and seed as placeholders.

        Parameters
        ----------
        model: a torch.nn.Module, torch.export.ExportedProgram, Keras model, tf.Module, tf.function,
            the folder of a SavedModel, a ``.keras`` or ``.pt2`` file, or any callable from arrays to an array.
            A list of torch modules or Keras models of one architecture, or an :class:`Ensemble` of a model and its
            states, gives an :class:`EnsembleExplainer`, whose results have the members first: one trace for all.
        method: a name or a value of :mod:`explainers.methods`; or a list or tuple of them. The result is then a list
            of explainers in that order, which share the trace of the model: compiling several methods takes little more
            than compiling their own parts. An error names the method in the list, and none is compiled then.
            Explainers of later calls of ``compile`` trace the model again, since an attribute or a hook may have
            changed. Without ``inputs``, for a model that does not declare them, each traces at its own first call.
        inputs: example arrays or TensorSpecs (one, a tuple, or a dict by name), to trace a model now that does not
            declare its inputs; otherwise it is traced at the first call. Axes of a TensorSpec that are None, or names,
            vary from call to call. For tables (pandas, polars, Arrow) the column names are kept: later tables are read
            by name, arrays by position. A callable's tables may have columns of words, categories and dates: each is
            a feature, and needs a baseline.
        wrt: the values to attribute: input names or positions, or paths of layers, whose outputs are
            then attributed. Default: every floating-point input.
        output: which of several outputs to explain, by key or position; or the path of a layer, whose units
            are then explained.
        baseline: the default baseline: a number, one sample, one per sample, References, a callable; for a table one
            row: a Series, a dict by column, or a table. Default 0, or for ``feature_permutation`` the call's samples.
        backend: ``"torch"``, ``"tensorflow"`` or ``"numpy"``; by default from the model's type.
        engine: one of the backend's engines; ``"auto"`` takes its default, whatever the model (on TensorFlow
            ``"graph"``, since ``"xla"`` compiles for each number of rows). ``"eager"`` runs uncompiled, and for methods
            that only need the model's outputs (``occlusion``, ``shapley_sampling`` …) calls the model as it is, without
            a trace: for models that cannot be traced. Layers cannot be named then, and there is no file.
        device: where to run; by default where the model is.
        dtype: ``"float32"``, ``"float64"`` or, on torch, ``"bfloat16"``; by default that of the model.
        batch_size: rows in a work package; by default from the model's activations and free memory.
            It never changes results.
        per_token: sum attributions over their last axis: for an embedding layer, one number a token.
        strict: raise IncompleteError instead of an IncompleteWarning if the attributions of a method with
            guaranteed completeness (DeepLIFT) do not add up to the change of the output.
        interacting: the samples of a batch affect each other in the model (a batch statistic, a graph of the samples):
            run each call as one batch, for methods with one evaluation per sample. The result is the derivative of the
            sum of all samples' targets. Without it such a model is an error.
        every_output: explain all outputs of a sample in each call, for methods of derivatives. The model runs once for
            them all, and only the derivatives are taken one by one. Calls have ``target="all"``, and the output's axes
            lead in the results.
        incremental: ``"auto"`` computes, for ``occlusion``, ``ism`` and ``feature_ablation`` of one input on torch or
            TensorFlow, only those activations that a row's change can reach, where that takes clearly less work:
            convolutions, pooling and elementwise operations on windows, with the sample's own activations around them.
            Results differ by rounding. :attr:`coverage` shows which operations run on windows and which on whole rows.
            False computes every row whole.

        Raises
        ------
        UnknownNameError, InputError, TraceError, UnsupportedOperation, BackendMissing
        """
        several = ensembles.members_of(model)
        model = model if several is None else several[0]
        values = compiling.resolved(method)
        count = len(values) if isinstance(method, (list, tuple)) else None
        arrays = bind.split(inputs)
        checked_size(batch_size, ", or None")
        kind = None if dtype is None else dtype_name(dtype)
        if kind not in (None, "float32", "float64", "bfloat16"):
            raise InputError(f"dtype must be 'float32', 'float64' or 'bfloat16'; got {dtype!r}")
        if incremental not in ("auto", False):
            raise InputError(f"incremental must be 'auto' or False; got {incremental!r}")
        flags = bool(strict), bool(interacting), bool(every_output), bool(incremental)
        options = Options(wrt, output, baseline, engine, device, kind, batch_size, per_token, *flags)
        opened: dict[str, Any] = {}
        explainers: list[Explainer] = []
        for place, value in enumerate(values):
            with compiling.naming(place, count, value):
                explainers.append(cls._untraced(model, value, backend, options, arrays, opened))
        shared = compiling.Shared()
        for place, explainer in enumerate(explainers):
            with compiling.naming(place, count, explainer.method):
                explainer._trace_on(*arrays, shared)
        made = explainers if several is None else [EnsembleExplainer(explainer, *several) for explainer in explainers]
        return made[0] if count is None else made

    @classmethod
    def _untraced(
        cls, model: Any, method: Method, backend: str | None, options: Options,
        arrays: tuple[Sequence[Any], Mapping[str, Any]], opened: dict[str, Any],
    ) -> Explainer:  # fmt: skip
        """An explainer of a checked choice of backend and engine. ``opened``: the model as each backend opened it."""
        args, kwargs = arrays
        found, engine = compiling.choose_backend(model, method, backend, options.engine, [*args, *kwargs.values()])
        if options.device is not None:
            device_name(found, options.device)
        if found.name not in opened:
            opened[found.name] = found.opened(model)
        model = opened[found.name]
        if method.rule_set is None and engine == "eager" and found.calling is not None:
            found = found.calling
        baseline = options.baseline
        if method.baseline_of_batch and isinstance(baseline, (int, float)):
            baseline = BatchReferences()
        return cls(model, method, found, replace(options, engine=engine, baseline=baseline))

    def _trace_on(self, args: Sequence[Any], kwargs: Mapping[str, Any], shared: compiling.Shared) -> None:
        """Trace the model, if it or the examples say what its inputs are."""
        with self._backend.neutral():
            with plan.advised(self._backend, self.method):
                signature = tables.signature(self._backend, self._model, args, kwargs)
            if signature is not None:
                self._prepare(signature, signature.bind(args, kwargs) if args or kwargs else (), shared)

    def _prepare(self, signature: Signature, examples: Sequence[Any], shared: compiling.Shared | None = None) -> Plan:
        """Trace the model and compile the first kernel, once."""
        with self._lock:
            if self._plan is None:
                model, calls = self._model, self._backend.forward_only
                if calls:
                    model = tables.of_tables(model, signature, examples)
                plain = [
                    tables.example(value, calls, spec.words)
                    for value, spec in zip(examples, signature.inputs, strict=bool(examples))
                ]
                try:
                    self._plan = plan.trace(
                        model, self._backend, self.method, self._options, signature, plain, self.stats, shared
                    )
                    self._model = model
                except UnsupportedOperation as error:
                    self._uncovered = error.coverage
                    raise
            return self._plan

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Plan, list[Any]]:
        """The plan, and the inputs in the signature's order; traces the model at the first call."""
        if len(args) == 1 and not kwargs and isinstance(args[0], (dict, tuple)):
            args, kwargs = bind.split(args[0])
        found = self._plan
        if found is None:
            if not args and not kwargs:
                raise InputError("no inputs given")
            with plan.advised(self._backend, self.method):
                signature = tables.signature(self._backend, self._model, args, kwargs)
            assert signature is not None
            found = self._prepare(signature, signature.bind(args, dict(kwargs)))
            self._by_first_call = True
        bound = found.traced.signature.bind(args, dict(kwargs))
        if self._by_first_call and self._backend.forward_only:
            found = self._of_dtype(found, bound)
        if found.traced.signature.lengths:
            found = self._of_sizes(found, found.traced.signature.sizes(bound))
        return found, bound

    def _of_sizes(self, found: Plan, sizes: dict[str, int]) -> Plan:
        """The plan for a call with these sizes of the axes that vary.

        What a model does along an axis of size 1 may be special (it is broadcast), so that such sizes are traced by
        themselves, and sizes with which it takes another branch.
        """
        known = found.of_sizes.get(tuple(sizes.values()))
        if known is not None:
            return known
        if found.traced.signature.unmet(sizes) is not None:
            return self._of_fixed(found, sizes, sizes)
        ones = {name: 1 for name, size in sizes.items() if size == 1}
        if ones and not (self._backend.forward_only or self._backend.calls):
            return self._of_fixed(found, ones, sizes)
        return found.at(sizes)

    def _of_fixed(self, found: Plan, fixed: dict[str, int], sizes: dict[str, int]) -> Plan:
        """The plan for these sizes from a trace where ``fixed`` do not vary."""
        signature, key = found.traced.signature, tuple(fixed.items())
        with self._lock:
            if key not in self._of_other_sizes:
                if found.loaded or len(self._of_other_sizes) >= MOST_FIXED:
                    signature.check(sizes)
                self._traced("an axis of size 1")
                fitting = replace(signature.at(fixed), conditions=())
                self._of_other_sizes[key] = plan.trace(
                    self._model, self._backend, self.method, self._options, fitting, fitting.inputs, self.stats
                )
            found = self._of_other_sizes[key]
        return found.at(sizes) if found.traced.signature.lengths else found

    def _of_dtype(self, found: Plan, bound: list[Any]) -> Plan:
        """The plan for the dtypes of this call: a callable may compute differently in each dtype."""
        known = found.traced.signature
        dtypes = tuple(
            tables.dtype(value) if tables.is_table(value) else str(getattr(value, "dtype", "")).removeprefix("torch.")
            for value in bound
        )
        pairs = zip(known.inputs, dtypes, strict=True)
        specs = tuple(
            replace(spec, dtype=dtype) if spec.floating and dtype.startswith("float") else spec for spec, dtype in pairs
        )
        if specs == known.inputs:
            return found
        signature = replace(known, inputs=specs)
        with self._lock:
            if dtypes not in self._of_other_dtypes:
                examples = bind.arrays(self._backend, signature, bound)[0]
                self._of_other_dtypes[dtypes] = plan.trace(
                    self._model, self._backend, self.method, self._options, signature, examples, self.stats
                )
            return self._of_other_dtypes[dtypes]

    # --- calling -----------------------------------------------------------------------------

    @neutrally
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
        groups: Any = None,
        **named: Any,
    ) -> Any:
        """Attributions of ``target`` to the inputs.

        Parameters
        ----------
        inputs, named: arrays (numpy, torch, TensorFlow, dlpack) of shape (N, …), as the model takes
            them: one, several, a tuple, or by name (keywords or one dict).
        target: an int or index tuple into the output, one per sample, a dense mask, ``"max"``, or, for
            forward-only methods, ``"all"`` (output axes then lead in the result).
        baseline: replaces the default given to ``compile``.
        seed: for sampled methods: an int, or one per sample. Default 0.
        batch_size: rows in a package, for this call.
        progress: True for a bar over rows, or a function of (rows done, rows in total).
        allow_nonfinite: let NaN and infinity through, in inputs and results.
        attribution: for ``Perturbation``: passed to its generator; has the shapes of the attributed inputs.
        groups: for methods with ``groups``: a map of integer feature ids for each sample, (N, …), with the axes of
            the attributed input, or 1 where it is the same along one; a tuple or dict for several. Samples may
            have different numbers of features.

        Returns
        -------
        Arrays of the shape, type, dtype and device of the attributed inputs: one for one, a tuple for
        several, a dict where inputs were given by name. For a layer: the shape of its output.

        Raises
        ------
        InputError, NonFiniteError, TargetError, BaselineError, NotConverged, IncompleteError

        Warns
        -----
        IncompleteWarning: once per call, if attributions of a method with guaranteed completeness do not add
        up: |Σ a − (s(x) − s(r))| > 1e-3·|s(x) − s(r)| + rounding of the outputs. ``stats.incomplete`` counts them.
        """
        asked = Asked(target, baseline, seed, batch_size, progress, allow_nonfinite, attribution, groups)
        request = self._request(inputs, named, asked)
        chunks = request.packages.run(request.call)
        if chunks and chunks[0].ends is not None:
            request.check(chunks)
        return request.results.attributions(request.call, chunks)

    @neutrally
    @with_the_arguments_of(__call__)
    def explanation(self, *inputs: Any, **arguments: Any) -> Explanation:
        """The attributions with the outputs, baseline outputs, completeness gap and standard error.

        Parameters and errors as for calling; see :class:`Explanation` for its attributes.
        """
        request = self.request(*inputs, **arguments)
        return request.explanation(request.packages.run(request.call))

    def stream(
        self, source: Any, *, target: Any = None, baseline: Any = None, seed: Any = None, block: int | None = None,
        inputs: Sequence[str | int] | str | int | None = None, ahead: int = 2, details: bool = False,
        batch_size: int | None = None, progress: Progress = False, allow_nonfinite: bool = False,
    ) -> Iterator[Any]:  # fmt: skip
        """The results of all samples of a source, block by block, in order, as one call would return them.

        Blocks are read by one thread and explained by another one before they are asked for, so that reading,
        explaining and what the caller does with a result overlap. At most ``ahead`` + 2 blocks of samples are held.

        Parameters
        ----------
        source: an array or a table, or a tuple or dict of these, of N samples each: numpy (also memory maps), torch,
            TensorFlow, h5py, zarr, dask, xarray, pandas, polars, Arrow; a ``ParquetFile``; a dataset of ``datasets``;
            or anything that yields batches of them: a generator, a DataLoader, a ``tf.data.Dataset``, Arrow's record
            batches. Columns of lists of equal lengths in Arrow are arrays (n, k).
        target: as for calling; or what holds the samples' targets in a batch: its name, or a function of the batch.
        baseline, seed: as for calling, for all samples of a source of known length. Sample i draws from (seed, i).
        block: samples of a block. Batches of a source that yields them are joined until they are as many. Default: the
            rows of a package, but at least 1024.
        inputs: names or positions of the model's inputs in a batch. Default: the model's own names, or the first ones.
        ahead: blocks that are read before they are asked for. 0 uses no threads.
        details: yield Explanations, with outputs, gaps and standard errors, instead of attributions.
        batch_size, allow_nonfinite: as for calling. progress: True for a bar over samples, or a function of (samples
            done, samples in all, 0 if unknown).

        Raises
        ------
        SourceError: the source failed; the message names the block, and the results before it have been yielded.
        InputError and others as for calling, with the numbers of the source's samples.
        """
        asked = self._streamed(source, details, {
            "target": target, "baseline": baseline, "seed": seed, "block": block, "inputs": inputs, "ahead": ahead,
            "batch_size": batch_size, "progress": progress, "allow_nonfinite": allow_nonfinite,
        })  # fmt: skip
        return (part.result for part in asked.parts())

    def to_zarr(
        self, source: Any, path: str | os.PathLike[str], *, details: bool = True, restart: bool = False,
        overwrite: bool = False, attributes: Mapping[str, Any] | None = None, **arguments: Any,
    ) -> Path:  # fmt: skip
        """Write the results of all samples of a source to a zarr group, block by block; returns its path.

        The group has an array ``attributions``, or one for each of several inputs by its name, (N, …). With ``details``
        it also has ``outputs``, ``baseline_outputs``, ``target`` (the mask), ``completeness_gap`` and
        ``standard_error``, where the method does. Its attributes say method, parameters, seed and versions.

        Until all is there, it lies in ``….zarr.part``. If the run is interrupted, the same call continues it, with the
        same result: each block is marked as done after it has reached the disk. A source that yields batches must then
        yield the same ones again.

        Parameters
        ----------
        source, arguments: as for :meth:`stream`.
        path: a folder called ``….zarr``.
        details: False evaluates and writes attributions only.
        restart: discard an interrupted run.
        overwrite: replace an output that exists.
        attributes: more of them, which JSON can hold.

        Raises
        ------
        InputError: an output that exists, or another run's part; a full disk. RunInProgress: another process writes to
        it. SourceError and others as for :meth:`stream`: what was done before is kept.
        """
        return to_disk(
            self._streamed(source, details, arguments), path, ".zarr", restart=restart, overwrite=overwrite,
            attributes=attributes,
        )  # fmt: skip

    def to_parquet(
        self, source: Any, path: str | os.PathLike[str], *, details: bool = True, restart: bool = False,
        overwrite: bool = False, attributes: Mapping[str, Any] | None = None, **arguments: Any,
    ) -> Path:  # fmt: skip
        """:meth:`to_zarr`, to a parquet file with a column for each array: of numbers, or of lists of equal length.

        The shape of a sample's entry is in the schema's metadata, as ``shape of …``.
        """
        return to_disk(
            self._streamed(source, details, arguments), path, ".parquet", restart=restart, overwrite=overwrite,
            attributes=attributes,
        )  # fmt: skip

    @neutrally
    def estimate(self, samples: int, *, seconds: float = 1.0, price: float = 0.0) -> Estimate:
        """What explaining so many samples takes, from calls on random numbers for some ``seconds``.

        ``price``: of this machine, in dollars an hour. Reading and writing are not in it. Methods that refine a result
        until it is good enough may take more.

        Raises
        ------
        InputError: not traced yet, or a number of samples below 1.
        """
        return estimate(self, samples, seconds, price)

    def _streamed(self, source: Any, details: bool, arguments: dict[str, Any]) -> Stream:
        self._ready("a source")
        return Stream.of(self, source, details=details, **arguments)

    @neutrally
    @with_the_arguments_of(__call__)
    def request(self, *inputs: Any, **arguments: Any) -> Request:
        """A call with the arguments of :meth:`explanation`, checked but not run yet. Schedulers use it."""
        asked, named = Asked.of(arguments)
        return self._request(inputs, named, asked, details=True)

    @neutrally
    def predict(self, *inputs: Any, batch_size: int | None = None, allow_nonfinite: bool = False, **named: Any) -> Any:
        """f(x): the explained output, (N, …), computed in packages, of the type of the first input.

        Inputs, batch_size and errors as for calling. For a method with ``logits`` this is the input of the
        model's last softmax or sigmoid.
        """
        found = self._inputs(inputs, named)
        self._check_size(found.plan, batch_size)
        packages = found.plan.packages
        size, check = int(batch_size or packages.batch_size), not allow_nonfinite
        parts = packages.predict(found.arrays, found.count, size, check)
        return self._results(found).outputs(parts, check)

    @neutrally
    def states(
        self, *inputs: Any, target: Any = None, baseline: Any = None, batch_size: int | None = None,
        allow_nonfinite: bool = False, **named: Any,
    ) -> States:  # fmt: skip
        """The samples with their target and baseline, for evaluating s = Σ w·f at points near them.

        Arguments and errors as for calling, but for every method the baseline may be References: s is then the mean
        over them.
        """
        found = self._inputs(inputs, named)
        self._check_size(found.plan, batch_size)
        packages, check = found.plan.packages, not allow_nonfinite
        if self._options.interacting:
            raise InputError("interacting=True: the samples affect each other, so that none can be changed by itself")
        target = resolve_target(bind.plain(target), packages.output_shape, found.count)
        given = self._options.baseline if baseline is None else baseline  # not kept: methods keep theirs
        table = bind.baseline(found.plan, FeatureAblation(), None, given, found.count, found.given, check)
        size = int(batch_size or packages.batch_size)
        return States(self._backend, found.plan, found.arrays, target, table, size, check)

    def _inputs(self, args: Sequence[Any], named: Mapping[str, Any]) -> Inputs:
        """The inputs of a call, checked, except for what the method asks of its samples."""
        found = None if named else self._known.inputs(args)
        if found is None:
            plan, given = self._bound(args, named)
            arrays, count = bind.arrays(self._backend, plan.traced.signature, given)
            by_name = len(args) == 1 and isinstance(args[0], dict)
            by_name = by_name or not named.keys() <= plan.traced.signature.fixed
            found = Inputs(plan, given, arrays, count, by_name)
            if not named:
                self._known.add(args, found)
        if found.plan.table_sizes:
            bind.check_ids(self._backend, found.plan, found.arrays)
        return found

    def _results(self, found: Inputs) -> Results:
        return Results(self._backend, found.plan, self._options.per_token, found.given, found.by_name)

    def _check_size(self, found: Plan, batch_size: Any) -> None:
        """Check the ``batch_size`` of a call."""
        if batch_size is None:
            return
        checked_size(batch_size)
        if found.alone and batch_size != 1:
            raise InputError(
                f"batch_size={batch_size}: the samples of a batch see one another in this model, which was compiled "
                "with batch_size=1 for that reason; leave it out"
            )

    def _request(
        self, inputs: Sequence[Any], named: Mapping[str, Any], asked: Asked, *, details: bool = False,
        samples: bool = True,
    ) -> Request:  # fmt: skip
        """``samples``: whether the inputs are samples to explain, not zeros for warming up."""
        found = self._inputs(inputs, named)
        if samples and self.method.checks_samples:
            places = found.plan.packages.places
            self.method.check([on_host(self._backend, found.arrays[place]) for place in places])
        if asked.groups is not None:
            found.plan = bind.with_groups(found.plan, self.method)
        call = self._call(found, asked)
        call.details = details
        return Request(self, found.plan, call, self._results(found))

    def _call(self, inputs: Inputs, asked: Asked) -> Call:
        found, count = inputs.plan, inputs.count
        if asked.batch_size is not None:
            checked_size(asked.batch_size)
            if self._options.interacting:
                raise InputError("interacting=True runs each call as one package; leave out batch_size")
            self._check_size(found, asked.batch_size)
        method, packages, check = self.method, found.packages, not asked.allow_nonfinite
        target = self._target(packages, asked.target, count)
        baseline = None
        if method.baseline != "none":
            default = self._options.baseline
            baseline = bind.baseline(found, method, default, asked.baseline, count, inputs.given, check)
        elif asked.baseline is not None:
            given = type(asked.baseline).__name__
            raise BaselineError(f"method {method.name!r} has no baseline; got one of type {given}")
        seeds = random_numbers.sample_seeds(asked.seed, count) if method.sampled else None
        self.stats.called()
        size = int(asked.batch_size or packages.batch_size)
        call = Call(count, inputs.arrays, target, baseline, seeds, size, check)
        if asked.groups is None:
            packages.check_size()
        else:
            call.groups = bind.groups(found, asked.groups, count)
        if asked.progress and count:
            call.progress = reporter(asked.progress, packages.rows(call))
        if asked.attribution is not None:
            call.attribution = bind.attribution(found, method, asked.attribution, count)
        return call

    def _target(self, packages: Packages, given: Any, count: int) -> Target:
        each = self._options.every_output
        if each and not (given is None or (isinstance(given, str) and given == "all")):
            raise TargetError(f"this explainer explains every output at once: leave out target={given!r}")
        given = "all" if each else bind.plain(given)
        return resolve_target(given, packages.output_shape, count, each or self.method.rule_set is None)

    # --- files -------------------------------------------------------------------------------

    @neutrally
    def save(self, file: Any, *, aot: bool = False, program: str | None = None, sign: Any = None) -> None:
        """Write the explainer to one file, atomically; it loads without the model's Python source.

        ``file``: a path, usually ``….explainer``, or an open binary file. ``aot``: compile it now (torch, engine
        ``"inductor"``), for any number of rows and the processor of this machine; the loaded explainer compiles
        nothing. An explainer loaded from such a file keeps its compiled programs; one from a file without them can
        be saved with ``aot`` on the machine where it is to run. ``program``: ``"code"`` (the default), the framework's
        own format, or ``"data"``, a list of operations from which the program is built when it is loaded: nothing in
        such a file is executed, and only operations that do nothing but compute are taken. ``sign``: an Ed25519 private
        key, of the package cryptography or as the path or the bytes of a PEM file without password.

        Raises
        ------
        InputError: not traced yet, ``aot`` with another engine or with data, or no such key. ArtifactError: a part that
        cannot be saved, such as a function for a baseline, or as data an operation of another library; or no C++
        compiler for ``aot``. BackendMissing: no cryptography.
        """
        plan = self._ready("save")
        key = None if sign is None else signing.private_key(sign)
        contents = saving.contents(plan, plan.packages.method, self._backend, self._options, aot, program)
        container.write(file, *contents, sign=key)

    @classmethod
    def load(cls, file: Any, device: Any = None, *, trusted: Any = None, program: str | None = None) -> Explainer:
        """Load an explainer from a path, bytes, or an open binary file. Nothing is traced again.

        A file holds compiled code, unless it was saved with ``program="data"``: load only files you trust, or only
        data, with ``program="data"``. ``device``: must be the one it was compiled for.
        ``trusted``: Ed25519 public keys, one or a list of them, of the package cryptography or as paths or bytes of PEM
        files; one of them must have signed the file. The signature is checked before anything else is read.

        Raises
        ------
        ArtifactError: damaged, too new, not signed by a trusted key, of another form than ``program``, or not for this
        backend or device; no code of it was run. InputError: no such key. BackendMissing.
        """
        saved = saving.Saved(file, trusted, program)
        self = cls(None, saved.method, saved.backend, saved.options)
        with saved.backend.neutral():
            self._plan = saved.plan(device, self.stats)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        buffer = io.BytesIO()
        self.save(buffer)
        return Explainer.load, (buffer.getvalue(),)

    # --- looking inside ----------------------------------------------------------------------

    @neutrally
    def warmup(self, batch_sizes: Sequence[int] | int = (1,), *, predict: bool = False) -> Explainer:
        """Compile and run the kernels that calls of these sizes need, on zeros. Returns itself.

        ``predict``: also those of :meth:`predict`.
        """
        found = self._ready("warmup")
        sizes = [batch_sizes] if isinstance(batch_sizes, int) else list(batch_sizes)
        for size in sizes:
            if size < 1:
                raise InputError(f"batch sizes must be ≥ 1; got {size}")
            rows = min(size * found.packages.count, found.packages.batch_size)
            found.packages.compile(rows)
            if not self._backend.forward_only:
                zeros = {
                    s.name: s.blank(size).astype("float32") if s.floating else s.blank(size)
                    for s in found.traced.signature.inputs
                }
                self._run_on(zeros, found)
                for _ in range(WARM_RUNS if predict else 0):
                    self.predict(zeros, allow_nonfinite=True)
        return self

    def _run_on(self, zeros: dict[str, Numpy], plan: Plan) -> None:
        count, shape = len(next(iter(zeros.values()))), plan.packages.output_shape
        target = np.zeros((count, *shape), np.float32) if shape and not self._options.every_output else None
        for _ in range(WARM_RUNS):
            request = self._request((zeros,), {}, Asked(target, allow_nonfinite=True), samples=False)
            if plan.packages.program.design is None:
                plan.packages.run(request.call)
            else:  # zeros may not be valid samples for the method
                plan.packages.run_endpoints(request.call)

    def _ready(self, what: str) -> Plan:
        if self._plan is None:
            raise InputError(
                f"{what} needs a traced model, and this one is traced at its first call. Give inputs= (example "
                "arrays or TensorSpecs) to Explainer.compile, or call the explainer first."
            )
        return self._plan

    def _traced(self, what: str) -> None:
        if self._plan is not None and self._plan.loaded:
            raise ArtifactError(
                f"{what} needs the model, and this explainer was loaded from a file, which holds compiled programs "
                "only. Compile it from the model."
            )

    @property
    def traced(self) -> bool:
        """Whether the model is traced, so that its inputs are known: by ``inputs=`` of ``compile``, or a first call."""
        return self._plan is not None

    @property
    def backend(self) -> str:
        """The backend's name."""
        return self._backend.name

    @property
    def engine(self) -> str:
        """The engine that compiled it."""
        return self._options.engine

    @property
    def device(self) -> Any:
        """The device of the kernels, as the framework names it."""
        return self._ready("device").traced.device

    @property
    def signature(self) -> Signature:
        """The model's inputs."""
        return self._ready("signature").traced.signature

    @property
    def attributed(self) -> tuple[TensorSpec, ...]:
        """The attributed values, inputs or outputs of a layer, in the order of the results."""
        return self._ready("attributed").specs

    @property
    def interacting(self) -> bool:
        """Whether each call runs as one batch, since its samples affect each other."""
        return self._options.interacting

    @property
    def every_output(self) -> bool:
        """Whether each call explains all outputs."""
        return self._options.every_output

    @property
    def per_token(self) -> bool:
        """Whether attributions are summed over their last axis."""
        return self._options.per_token

    @property
    def output(self) -> TensorSpec:
        """The specification of the explained output."""
        plan = self._ready("output")
        key, value = plan.graph.outputs[0]
        return TensorSpec((None, *plan.packages.output_shape), plan.graph.output(value).dtype, str(key))

    @property
    def graph(self) -> Graph:
        """The traced graph; ``print`` shows it as text."""
        return self._ready("graph").graph

    @property
    def coverage(self) -> Coverage:
        """A table of the graph's operations: how many, their role, the rule that handles them, and how exact it is."""
        if self._plan is None and self._uncovered is not None:
            return self._uncovered
        return self._ready("coverage").packages.program.coverage()

    @neutrally
    def audit(
        self, *inputs: Any, target: Any = None, baseline: Any = None, allow_nonfinite: bool = False, **named: Any
    ) -> Audit:
        """How much each operation contributes to a completeness gap, the largest first.

        For methods that compare with a reference (DeepLIFT): Σ m·Δ over a node's inputs minus Σ m·Δ over
        its outputs, in units of the explained output, for each sample. Arguments as for calling.

        Raises
        ------
        UnsupportedOperation: for methods that are not complete at every node.
        """
        self._traced("audit")
        asked = Asked(target, baseline, allow_nonfinite=allow_nonfinite)
        request = self._request(inputs, named, asked)
        if request.packages.references is None:
            raise UnsupportedOperation(
                f"audit needs a method that is complete at every operation, such as 'deeplift'; this is {self.method}"
            )
        return Audit.of(audit(request.packages, request.call) if len(request.call) else [])

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
        """The same explainer with another effort, such as ``explain.replace(steps=128)``; nothing is compiled again.

        ``effort``: parameters that set how much the method evaluates, listed in its ``effort``: such as
        ``steps``, ``permutations`` or ``tolerance``.

        Raises
        ------
        UnknownNameError: a parameter is not one of these. InputError: the method rejects a value.
        """
        for name in effort:
            if name not in self.method.effort:
                raise UnknownNameError.among(
                    "parameter of effort", name, self.method.effort, where=f" of method {self.method.name!r}"
                )
        found = self._ready("replace")
        other = Explainer(self._model, replace(self.method, **effort), self._backend, self._options)
        other.stats = self.stats
        other._plan = replace(found, packages=found.packages.variant(other.method), of_sizes={})
        return other

    def with_columns(self, columns: Sequence[str], input: str | None = None) -> Explainer:
        """An explainer that knows the names of a table's columns, and shares everything compiled.

        ``columns``: in the order of the model's features. ``input``: the input with these columns, by default the
        only one.

        Raises
        ------
        InputError: the number of names differs from the input's columns, or the input has other names already.
        UnknownNameError: no such input.
        """
        found = self._ready("with_columns")
        signature = found.traced.signature
        name = input or signature.names[0]
        if name not in signature.names or (input is None and len(signature.names) > 1):
            raise UnknownNameError.among("input", input, signature.names)
        known = signature.inputs[signature.names.index(name)].columns
        if known and known != tuple(columns):
            raise InputError(f"input {name!r} has the columns {tables.listed(known)}; got {tables.listed(columns)}")

        def named(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
            return tuple(replace(spec, columns=tuple(columns)) if spec.name == name else spec for spec in specs)

        traced = replace(found.traced, signature=replace(signature, inputs=named(signature.inputs)))
        specs = tuple(
            spec if place is None else named([spec])[0] for spec, place in zip(found.specs, found.places, strict=True)
        )
        other = Explainer(self._model, self.method, self._backend, self._options)
        other.stats = self.stats
        other._plan = replace(found, traced=traced, specs=specs, fixed={}, of_sizes={})
        return other

    @neutrally
    def refresh(self) -> Explainer:
        """Use the model's current weights. Does not retrace. Returns itself."""
        found = self._ready("refresh")
        self._traced("refresh")
        for known in (found, *self._of_other_sizes.values()):
            known.packages.refresh(self._backend.refresh(self._model, known.traced))
            known.of_sizes.clear()
        self._known.forget()
        return self

    @neutrally
    def detached(self) -> Explainer:
        """The same explainer with weights and kernels of its own, from the same trace; the model is not touched.

        :meth:`weights` and :meth:`set_weights` read and set them.

        Raises
        ------
        ArtifactError: loaded from a file. UnsupportedOperation: the model is called as it is, and has no weights.
        """
        found = self._ready("detached")
        self._traced("detached")
        packages, options = found.packages, self._options
        own = {value: self._backend.copied(weight) for value, weight in found.traced.weights.items()}
        if not own:
            self._backend.copied(None)
        other = Explainer(self._model, self.method, self._backend, options)
        traced = replace(found.traced, weights=own)
        fresh = Packages(
            self._backend, traced, packages.method, found.wrt, found.graph, engine=options.engine, stats=other.stats,
            batch_size=packages.batch_size, every_output=options.every_output, incremental=options.incremental,
        )  # fmt: skip
        other._plan = replace(found, traced=traced, packages=fresh, fixed={}, of_sizes={})
        return other

    @neutrally
    def shifted(self, amount: float) -> Explainer:
        """The same explanation of the model x ↦ f(x − amount), for every entry of the attributed inputs.

        At x + amount that model does what f does at x. It is compiled anew; the model itself is not touched.

        Raises
        ------
        ArtifactError: loaded from a file. InputError: attributions of a layer, or of inputs of whole numbers.
        """
        found = self._ready("shifted")
        self._traced("shifted")
        signature = found.traced.signature
        moved = [signature.inputs[place].name for place in found.places if place is not None]
        if None in found.places or not all(spec.floating for spec in signature.inputs if spec.name in moved):
            raise InputError(
                "only floating-point inputs can be shifted, not the outputs of layers and not whole numbers"
            )

        def change(arrays: Sequence[Any]) -> list[Any]:
            pairs = zip(arrays, signature.names, strict=True)
            return [array - amount if name in moved else array for array, name in pairs]

        model = self._backend.preceded(self._model, signature, change)
        other = Explainer(model, self.method, self._backend, replace(self._options, wrt=tuple(moved)))
        flat = replace(signature, positional=len(signature.inputs), arguments=())
        other._prepare(flat, flat.inputs)
        return other

    def weights(self) -> dict[Value, Numpy]:
        """The weights that the kernels use, by their value in :attr:`graph`."""
        traced, backend = self._ready("weights").traced, self._backend
        return {value: backend.numpy(backend.read(weight)) for value, weight in traced.weights.items()}

    @neutrally
    def set_weights(self, weights: Mapping[Value, Numpy]) -> None:
        """Set weights of an explainer from :meth:`detached`, in place; nothing is compiled again."""
        found = self._ready("set_weights")
        for value, array in weights.items():
            self._backend.write(found.traced.weights[value], array)
        if found.packages.references is not None:
            found.packages.references.forget()

    def __repr__(self) -> str:
        where = f"{self._backend.name}/{self._options.engine}"
        inputs = f"({self._plan.traced.signature})" if self._plan else "(traced at the first call)"
        return f"Explainer({self.method}, {where}, {inputs})"
