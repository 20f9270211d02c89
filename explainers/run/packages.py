"""Rows → work packages → kernel → per-sample results.

A row is one (sample, step). Samples are staged in chunks of at most ``batch_size``; the chunk's
rows, sample after sample, are cut into packages of ``batch_size`` rows, so that several samples
share a package and one sample may span many. A chunk of ``batch_size`` samples fills its packages
exactly. Expansion, model and reduction happen in the kernel; only samples, row descriptors and
results cross to the device.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from ..backend import Backend, Kernel, Loaded, Size, Traced, on_host
from ..errors import ArtifactError, OutOfMemory, shown
from ..graph import Graph, Value
from ..lengths import varies
from ..methods.base import Method
from ..methods.groups import SampleGroups
from ..methods.removal import Coalitions, Design, Grouped
from ..program import Placeholder, Program
from ..program.against_reference import Contrast
from ..program.every_output import EveryOutput
from ..program.first_layer import GroupsInFirstLayer
from ..program.prepare import prepare
from ..spec import Array, Baseline, Numpy, Target, all_finite, check_finite, numpy_dtype
from . import together
from .base import Run, Steps
from .call import Call, Chunk, Piece, Results, Rows, Staged, Stats
from .contrasted import ContrastRun
from .forward import ForwardRun, PackageRows
from .joining import divided, joined
from .perturbed import PerturbedRun
from .references import ReferenceActivations
from .summed import SingleRun, SummedRun

Found = TypeVar("Found")
MOST_DESIGNS = 64  # that are kept


def out_of_memory(error: BaseException) -> OutOfMemory:
    return OutOfMemory(
        f"the call does not fit the memory ({shown(str(error))}). Give fewer samples at once, or less effort"
    )


class Packages:
    """Runs one program over samples in packages, with a kernel for each shape that the engine needs."""

    def __init__(
        self, backend: Backend, traced: Traced, method: Method, wrt: tuple[Value, ...], graph: Graph,
        *, engine: str, batch_size: int | None, stats: Stats, loaded: Loaded | None = None,
        every_output: bool = False, incremental: bool = True, reuse: bool | None = None,
    ) -> None:  # fmt: skip
        self.backend, self.traced, self.engine, self.stats = backend, traced, engine, stats
        self.ahead = loaded is not None and loaded.ahead
        self.static = backend.engines[engine] and not self.ahead
        self.loaded = loaded  # kernels from a file, instead of compiling
        if self.static or (loaded is None and backend.cache_bytes(traced.device) is None):
            reuse = False  # large packages of many samples, padded or on an accelerator, have no small products
        prepared = prepare(graph, method, wrt, every_output, changes=incremental, reuse=reuse, batch_size=batch_size)
        self.program, self.predictor = prepared.program, prepared.predictor
        self.prefix, self._prefix_places = prepared.prefix, prepared.prefix_places
        self.method = method
        self.shapes = [self.program.sample_shape(value) for value in self.program.wrt]
        self.count = self.rows_per_sample(1)
        self.output_shape = self.program.sample_shape(self.program.output)
        self.mask_dtype = self.program.dtype(self.program.output)
        if method.has_groups or not method.takes_groups:  # else they may come with a call
            self.check_size()
        self.own_part = ""  # the name of the program's kernels
        self._by_elements: Packages | None = None
        self._designs: dict[int, Coalitions] = {}  # of groups that come with calls, by the number of features
        self.constants = self._staged_constants()
        self._choose = [backend.stage(np.array(flag), self.mask_dtype, traced.device) for flag in (0.0, 1.0)]
        self._given_size = batch_size
        self.batch_size = batch_size or self._memory_batch()
        stats.batch_size = self.batch_size
        self._kernels: dict[tuple[str, Size], Kernel] = {}
        self._lock = threading.RLock()
        self.known_rows: dict[tuple[Method, bool], Rows] = {}  # of the largest chunk
        self.last_rows: tuple[Method, bool, Rows] | None = None
        self.last_units: tuple[Any, PackageRows] | None = None
        self._last_mask: tuple[Target, tuple[int, int], Array] | None = None
        self._fixed_tables: tuple[Baseline, list[Array]] | None = None
        self._whole: Packages = self  # with the programs that are compiled, for any sizes of the axes that vary
        self.references = self._new_references()
        self._row_holders = self._of_rows()

    def variant(self, method: Method) -> Packages:
        """Packages for a method that differs only in its effort; the kernels are shared."""
        other = copy.copy(self)
        other.method, other.program = method, dataclasses.replace(self.program, method=method)
        other.count = other.rows_per_sample(1)
        other.known_rows, other.last_rows, other.last_units, other._designs = {}, None, None, {}
        return other

    def at(self, sizes: Mapping[str, int]) -> Packages:
        """Packages for calls with these sizes of the axes that vary; the kernels are shared."""
        other = copy.copy(self)
        other.program = dataclasses.replace(self.program, sizes=sizes)
        other.shapes = [other.program.sample_shape(value) for value in other.program.wrt]
        other.output_shape = other.program.sample_shape(other.program.output)
        other.count = other.rows_per_sample(1)
        other.batch_size = self._given_size or other._memory_batch()
        other.constants, other._row_holders = other._staged_constants(), other._of_rows()
        other.known_rows, other._designs, other._by_elements = {}, {}, None
        other.last_rows = other.last_units = other._last_mask = other._fixed_tables = None
        other.references = other._new_references()
        return other

    def _new_references(self) -> ReferenceActivations | None:
        if not isinstance(self.program, Contrast):
            return None
        return ReferenceActivations(
            self.program, self.backend, self.traced, lambda rows: self.kernel(rows, "reference"), self.bucket
        )

    @property
    def family(self) -> tuple[Any, ...]:
        """A value that all variants of the same packages share, whose pieces may be joined."""
        return id(self._kernels), self.own_part, *self.program.sizes.values()

    @property
    def room(self) -> int:
        """The number of rows in a package."""
        return self.limit(self.batch_size)

    def rows_per_sample(self, references: int) -> int:
        """Evaluations per sample; for a method that refines its result, those of the first pass."""
        design = self.program.design
        return self.method.count(self.shapes) if design is None else _rows(design, references)

    def check_size(self) -> None:
        """Raise InputError if the method cannot take as many features as samples have."""
        if self.program.design is not None:
            self.program.design.check_size()

    def rows(self, call: Call) -> int:
        """Evaluations of a call, as :meth:`rows_per_sample`."""
        baseline = call.baseline
        references = len(baseline) if baseline is not None and baseline.distribution else 1
        if call.groups is None:
            return len(call) * self.rows_per_sample(references)
        first = np.unique(call.groups.counts, return_index=True, return_counts=True)[1:]
        return sum(int(n) * _rows(self.design_of(call, i, i + 1), references) for i, n in zip(*first, strict=True))

    def _staged_constants(self) -> dict[str, Array]:
        kinds = {holder.name: holder.dtype for holder in self.program.placeholders}
        found = self.program.constants().items()
        return {name: self.to_device(array.astype(numpy_dtype(kinds[name])), kinds[name]) for name, array in found}

    def _of_rows(self) -> list[Placeholder]:
        holders = [holder for holder in self.program.placeholders if holder.axis == "rows"]
        return [holder for holder in holders if holder.name not in ("sample", "baseline")]

    def most_samples(self, call: Call) -> int | None:
        """The most samples in a package of ``call``, if its rows start behind the first layer; else None.

        They do not if samples may hold NaN, which 0 · NaN would spread over all rows, or with many references.
        """
        program, baseline = self.program, call.baseline
        if not isinstance(program, GroupsInFirstLayer) or not call.check:
            return None
        most, count = program.most_samples, 1
        if baseline is not None and (baseline.per_sample or baseline.own):
            count = most
        if baseline is not None and baseline.distribution:
            count *= len(baseline)
        return most if program.suits(most, count) else None

    def row_part(self, call: Call) -> str:
        """The name of the program that runs the rows of ``call``; "" for the one of these packages."""
        reuses = isinstance(self.program, GroupsInFirstLayer)
        return "dense" if reuses and self.most_samples(call) is None else ""

    @property
    def most_single_rows(self) -> int | None:
        """The most samples in a package of one row each, if rows start behind the first layer; else None."""
        return self.program.most_single_rows if isinstance(self.program, GroupsInFirstLayer) else None

    @property
    def places(self) -> list[int]:
        """The positions of the attributed inputs among the model's, for methods that do not attribute a layer."""
        return [self.program.graph.inputs.index(value) for value in self.program.wrt]

    # --- groups that come with a call ----------------------------------------------------------

    def by_elements(self) -> Packages:
        """Packages whose rows say for each element whether it is kept: these, or others of the same kernels."""
        assert isinstance(self.method, Grouped)
        method = self.method.of_elements
        if method is self.method or any(map(varies, self.shapes)):  # whose rows say it anyway
            return self
        with self._lock:
            other = self._by_elements
            if other is None:
                other = self._by_elements = copy.copy(self)
                other.method, other.own_part = method, "groups"
                other.program = dataclasses.replace(self.program.plain, method=method)
                other.known_rows, other.constants = {}, other._staged_constants()
                other.last_rows = other.last_units = None
                other._row_holders = other._of_rows()
            return other

    def design_of(self, call: Call, start: int, stop: int) -> Design:
        """The design for the samples start … stop−1 of a call, which have equally many features."""
        if call.groups is None:
            assert self.program.design is not None
            return self.program.design
        return self.design(call.groups.part(start, stop))

    def design(self, groups: SampleGroups) -> Coalitions:
        """The design for samples with equally many features."""
        with self._lock:
            design = self._designs.get(groups.count)
            if design is None:
                if len(self._designs) >= MOST_DESIGNS:
                    self._designs.pop(next(iter(self._designs)))
                assert isinstance(self.method, Grouped)
                design = self.method.design_of(groups)
                self._designs[groups.count] = design
        return design.of(groups)

    # --- kernels -----------------------------------------------------------------------------

    def _memory_batch(self) -> int:
        """The rows whose activations take a small part of the free memory and, if rows are small, fit the cache."""
        each = self.program.count if isinstance(self.program, EveryOutput) else 1
        row = max(1, self.program.row_bytes()) * each
        budget = min(self.backend.free_bytes(self.traced.device) // 4, 2**31)
        rows = min(budget // (row * (2 if self.program.rules else 1)), self.backend.largest_package)
        cache = self.backend.cache_bytes(self.traced.device)
        if cache is not None:
            rows = min(rows, max(cache // row, self.program.least_rows // each))
        return 1 << max(0, rows.bit_length() - 1)

    def bucket(self, rows: int) -> int | None:
        """The static size that ``rows`` rows are padded to; None if the engine takes any size."""
        return 1 << (rows - 1).bit_length() if self.static else None

    def limit(self, batch_size: int) -> int:
        """The rows of a package for a batch size: a power of two if shapes are static."""
        size = min(batch_size, self.stats.batch_size) if self.stats.out_of_memory else batch_size
        return 1 << (size.bit_length() - 1) if self.static else size

    def kernel(self, rows: Size, part: str = "") -> Kernel:
        """The kernel for a static size, or the one for any size; compiled at first use.

        ``part``: ``"prefix"`` (up to a layer), ``"reference"``, ``"predict"``, or the program itself. ``rows``:
        the size of every leading axis, or of (samples, baselines).
        """
        part = part or self.own_part
        key = (part, rows)
        kernel = self._kernels.get(key)
        if kernel is None:
            with self._lock:
                if key not in self._kernels:
                    began = time.perf_counter()
                    self._kernels[key] = self._compiled(part, rows)
                    size = "any" if rows is None else rows if isinstance(rows, int) else "×".join(map(str, rows))
                    shape = f"{part}{', ' if part else ''}{size} rows"
                    if self.loaded is None or rows is not None:
                        self.stats.compiled(shape, time.perf_counter() - began, traced=self.loaded is None)
                kernel = self._kernels[key]
        return kernel

    def _compiled(self, part: str, rows: Size) -> Kernel:
        if self.loaded is not None:
            try:
                return self.loaded.kernel(part or "explain", rows)
            except (KeyError, AttributeError) as error:
                raise ArtifactError(f"the file is older than the program {part!r}: save the explainer again") from error
        return self.backend.compile(self._whole._part(part), self.traced, engine=self.engine, rows=rows)

    def parts(self) -> dict[str, tuple[Any, Kernel | None]]:
        """The programs that calls run, each with its kernel for any size, if it is compiled already."""
        names = ["", "predict"] + ["prefix"] * (self.prefix is not None) + ["reference"] * (self.references is not None)
        if self.has_other_groups:
            names.append("groups")
        if isinstance(self.program, GroupsInFirstLayer):
            names.append("dense")
        return {part or "explain": (self._part(part), self._kernels.get((part, None))) for part in names}

    def _part(self, part: str) -> Any:
        if part == "groups":
            return self.by_elements().program
        if part == "dense":
            assert isinstance(self.program, GroupsInFirstLayer)
            return self.program.plain
        if part in ("", "prefix", "predict"):
            return {"": self.program, "prefix": self.prefix, "predict": self.predictor}[part]
        assert isinstance(self.program, Contrast)
        program = self.audited if "audit" in part else self.program
        return program.reference if "reference" in part else program

    @property
    def audited(self) -> Contrast:
        """The program that computes the completeness gap of each node."""
        assert isinstance(self.program, Contrast)
        return dataclasses.replace(self.program, audit=True, grid=False)

    def compile(self, rows: int) -> None:
        """Compile the kernels that packages of ``rows`` rows need."""
        size = self.bucket(rows)
        if self.prefix:
            self.kernel(size, "prefix")
        if isinstance(self.program, Contrast):
            self.kernel(self.bucket(1) if self.program.shared else size, "reference")
            if self.program.grid:  # pairs of static sizes depend on the number of references
                if size is None:
                    self.kernel(None)
                return
        self.kernel(size)

    def refresh(self, weights: dict[Value, Array]) -> None:
        with self._lock:
            self.traced.weights = weights
            for kernel in self._kernels.values():
                kernel.bind(weights)
        if self.references is not None:
            self.references.forget()

    # --- running -----------------------------------------------------------------------------

    def run(self, call: Call) -> list[Chunk]:
        """Results chunk by chunk, in order."""
        if call.groups is not None:
            return together.run(self, call)
        return self.drive(self.steps(call))

    def drive(self, steps: Steps[Found]) -> Found:
        """Execute each piece as it comes."""
        try:
            piece = next(steps)
            while True:
                try:
                    results = self._execute(piece)
                except Exception as error:
                    piece = steps.throw(error)
                else:
                    piece = steps.send(results)
        except StopIteration as stop:
            found: Found = stop.value
            return found

    def steps(self, call: Call, start: int = 0, end: int | None = None) -> Steps[list[Chunk]]:
        """Yield the pieces of a call, or of its samples start … end−1, one after the other, and return the results."""
        chunks = []
        end = call.count if end is None else end
        while start < end:
            size = self.limit(call.batch_size)
            stop = min(start + size, end) if call.groups is None else call.groups.alike(start, min(start + size, end))
            try:
                chunks.append((yield from self._run(call, start, stop).steps()))
            except Exception as error:
                if not self.backend.is_out_of_memory(error):
                    raise
                if size == 1:
                    raise out_of_memory(error) from error
                self.stats.out_of_memory += 1
                self.batch_size = self.stats.batch_size = max(1, min(self.stats.batch_size, size // 2))
                continue
            start = stop
        return chunks

    def predict(self, inputs: list[Array], count: int, batch_size: int, check: bool) -> list[Array]:
        """f at every sample, a part for each package."""
        if not count:
            return [np.zeros((0, *self.output_shape), self.mask_host_dtype)]
        size = self.limit(batch_size)
        parts = []
        for start in range(0, count, size):
            stop = min(start + size, count)
            samples = self.staged_inputs([array[start:stop] for array in inputs], start, count, check)
            parts.append(self.outputs(samples, stop - start))
        return parts

    def outputs(self, samples: Sequence[Array], count: int) -> Array:
        """f, (count, …), at samples on the device, at most as many as a package has rows."""
        places = [self.predictor.graph.inputs.index(value) for value in self.predictor.inputs]
        arguments = [samples[place] for place in places]
        bucket = self.bucket(count)
        if bucket is not None:
            arguments = [self.backend.pad(array, bucket) for array in arguments]
        result = self.kernel(bucket, "predict")(*arguments)[0]
        return result if bucket is None else self.backend.first(result, count)

    def staged_inputs(self, parts: Sequence[Array], start: int, count: int, check: bool) -> list[Array]:
        """Samples of every input from number ``start`` on, of ``count``, checked and on the device."""
        return [self._input(place, part, start, count, check) for place, part in enumerate(parts)]

    def _input(self, place: int, part: Array, start: int, count: int, check: bool) -> Array:
        """The samples of one input from ``start`` on, checked and staged on the device."""
        spec, backend = self.traced.signature.inputs[place], self.backend
        if check and spec.floating:
            finite = all_finite(part) if isinstance(part, np.ndarray) else backend.finite(part)
            if not finite:
                check_finite(on_host(backend, part), f"input {spec.name!r}", start, count)
        return backend.stage(part, spec.dtype, self.traced.device)

    def _run(self, call: Call, start: int, stop: int) -> Run:
        return self._kind_of_run(self, call, self.stage_call(call, start, stop), start, stop)

    @cached_property
    def _kind_of_run(self) -> type[Run]:
        if self.program.design is not None:
            return PerturbedRun if self.method.generates else ForwardRun
        if self.references is not None:
            return ContrastRun
        return SingleRun if self.method.single else SummedRun

    def execute(self, pieces: Sequence[Piece]) -> list[Results]:
        """Run pieces with equal keys as one package; returns the results of each."""
        if len(pieces) == 1:
            return [self._execute(pieces[0])]
        by_row = (2 if self.program.design else 1) if pieces[0].kind == "rows" else 0
        return divided(pieces, self._execute(joined(self.backend, pieces)), by_row)

    def _execute(self, piece: Piece) -> Results:
        """One kernel call; removes the padding of results whose leading axis is the samples."""
        if piece.kind == "rows":
            return self._call(piece)
        count, shared = piece.count, piece.shared
        size = self.bucket(count)
        arguments = piece.samples()
        if not shared:
            arguments += piece.activations
        if size is not None:
            arguments = [self.backend.pad(array, size) for array in arguments]
        arguments.insert(len(piece.staged.inputs) + 1, piece.staged.choose)
        if shared:
            # Compiled code assumes equal axes to stay equal; elsewhere a single reference is broadcast.
            spread = piece.kind == "aligned" and (size is not None or self.ahead)
            arguments += (
                [self.backend.pad(a, size or count) for a in piece.activations] if spread else piece.activations
            )
        shape: Size = (size, piece.references) if size is not None and piece.kind == "grid" else size
        began = time.perf_counter()
        results = self.kernel(shape, piece.part)(*arguments)
        seconds = time.perf_counter() - began
        padded = 0 if size is None else (size - count) * piece.references
        self.stats.ran(count * piece.references, padded, seconds)
        return tuple(self.backend.first(array, count) for array in results) if padded else results

    def endpoint_rows(self, which: str) -> dict[str, Numpy]:
        """The row values for which the expansion is the sample, or its baseline."""
        given = (self.program.design or self.method).endpoint(which)
        return {p.name: np.full(p.shape, given[p.name], numpy_dtype(p.dtype)) for p in self._row_holders}

    def staged_rows(self, staged: Staged, rows: Rows) -> dict[str, Array]:
        """The row arguments of ``rows`` on the device."""
        holders = [p for p in self.program.placeholders if p.axis == "rows"]
        return {p.name: self._row_values(p, staged, rows, None) for p in holders}

    def last_arguments(self, staged: dict[str, Array]) -> list[Array]:
        """The kernel's arguments after those of samples and baselines, for rows with the arguments ``staged``."""
        holders = [p for p in self.program.placeholders if p.axis in ("rows", "")]
        return [staged[p.name] if p.axis else self.constants[p.name] for p in holders]

    # --- one package -------------------------------------------------------------------------

    def to_device(self, array: Array, dtype: str) -> Array:
        """``array`` on the device, as ``dtype``."""
        return self.backend.stage(array, dtype, self.traced.device)

    def stage_call(self, call: Call, start: int, stop: int) -> Staged:
        """Stage samples start … stop−1, their masks and baselines on the device."""
        whole = start == 0 and stop == call.count
        inputs = []
        for place, array in enumerate(call.inputs):
            part = array if whole else array[start:stop]
            inputs.append(self._input(place, part, start, call.count, call.check))
        count = stop - start
        if self.prefix is not None:
            size = self.bucket(count)
            needed = [inputs[place] for place in self._prefix_places]
            padded = [self.backend.pad(array, size) for array in needed] if size else needed
            cut = self.kernel(size, "prefix")(*padded)
            inputs = [*(cut if size is None else (self.backend.first(array, count) for array in cut)), *inputs]
        mask = self._mask(call.target, start, stop)
        choose = self._choose[call.target.kind == "max"]
        tables = [] if call.baseline is None else self._tables(call.baseline, start, stop)
        seeds = call.seeds[start:stop] if call.seeds is not None else None
        return Staged(count, inputs, mask, choose, tables, call.baseline, seeds)

    def _tables(self, baseline: Baseline, start: int, stop: int) -> list[Array]:
        """The baselines of samples start … stop−1 on the device; those that are fixed are kept there."""
        known = self._fixed_tables
        if known is not None and known[0] is baseline:
            return known[1]
        tables = []
        for table, value in zip(baseline.tables, self.program.moved, strict=True):
            part = table[start:stop] if baseline.per_sample or baseline.own else table
            if baseline.own:
                part = part.reshape(-1, *part.shape[2:])
            tables.append(self.to_device(part, self.program.dtype(value)))
        if baseline.fixed:
            self._fixed_tables = baseline, tables
        return tables

    def _mask(self, target: Target, start: int, stop: int) -> Array:
        """The target's mask on the device; that of the last call is cached."""
        known, key = self._last_mask, (start, stop)
        if known is not None and known[0] is target and known[1] == key:
            return known[2]
        mask = self.mask_to_device(target.mask(start, stop, self.mask_host_dtype))
        self._last_mask = target, key, mask
        return mask

    def stage(self, array: Numpy, value: Value) -> Array:
        """``array`` on the device, with the dtype of ``value`` of the graph."""
        return self.to_device(array, self.program.dtype(value))

    def run_endpoints(self, call: Call) -> None:
        """Evaluate the model at the call's samples themselves."""
        self.drive(self._run(call, 0, len(call)).endpoint_outputs("input"))

    @property
    def has_other_groups(self) -> bool:
        """Whether groups that come with a call need a program of their own."""
        return self.method.takes_groups and not self.method.has_groups and self.by_elements() is not self

    @property
    def mask_host_dtype(self) -> str:
        return numpy_dtype(self.mask_dtype)

    def mask_to_device(self, mask: Numpy) -> Array:
        return self.to_device(mask, self.mask_dtype)

    @cached_property
    def host_dtypes(self) -> list[Any]:
        """The numpy dtype for the attributions of each attributed value."""
        return [np.dtype(self.host_dtype(value)) for value in self.program.wrt]

    def host_dtype(self, value: Value) -> str:
        """The numpy dtype for attributions of ``value``: that of the output if ``value`` holds integers."""
        floating = self.program.graph.output(value).floating
        return numpy_dtype(self.program.dtype(value)) if floating else self.mask_host_dtype

    def _call(self, piece: Piece) -> Results:
        """One kernel call for a piece of rows."""
        program, part = self.program, piece.part
        if isinstance(program, GroupsInFirstLayer):
            piece = _with_used_baselines(piece)
            if part or not program.suits(piece.count, _length(piece)):
                program, part = program.plain, "dense"
        staged, rows = piece.staged, piece.rows
        assert rows is not None
        count = len(rows.sample)
        bucket = self.bucket(count)
        if rows.arguments is None:
            arguments = self._arguments(program, piece, rows, bucket)
        else:
            tables = [self._table(table, piece, rows, bucket) for table in staged.tables]
            arguments = [*piece.samples(), *tables, *rows.arguments]
        began = time.perf_counter()
        result = self.kernel(bucket, part)(*arguments)
        self.stats.ran(count, (bucket or count) - count, time.perf_counter() - began)
        return result

    def _arguments(self, program: Program, piece: Piece, rows: Rows, bucket: int | None) -> list[Array]:
        """The kernel's arguments for a piece of rows."""
        staged = piece.staged
        tables = iter(staged.tables)
        samples = iter(piece.samples())
        arguments = []
        for holder in program.placeholders:
            if holder.axis == "samples":
                argument = next(samples)
            elif holder.axis == "baselines":
                argument = self._table(next(tables), piece, rows, bucket)
            elif holder.axis == "rows":
                argument = rows.staged.get(holder.name)
                if argument is None:
                    argument = self._row_values(holder, staged, rows, bucket)
            else:
                argument = self.constants[holder.name]
            if bucket is not None and holder.axis in ("samples", "baselines"):
                argument = self.backend.pad(argument, bucket)
            arguments.append(argument)
        return arguments

    def _table(self, table: Array, piece: Piece, rows: Rows, bucket: int | None) -> Array:
        """The baselines that a package's rows index into."""
        baseline = piece.staged.baseline
        assert baseline is not None
        if baseline.per_sample:
            return table[piece.first : piece.last]
        if bucket is not None and baseline.distribution:  # a static shape: gather only the rows' own
            return self.backend.take(table, rows.baseline)
        return table

    def _row_values(self, holder: Placeholder, staged: Staged, rows: Rows, bucket: int | None) -> Array:
        sample, baseline, values = rows.sample, rows.baseline, rows.values
        if holder.name == "sample":
            array = sample
        elif holder.name == "baseline":
            assert staged.baseline is not None
            array = sample if staged.baseline.per_sample else baseline
            if bucket is not None and staged.baseline.distribution:
                array = np.arange(len(sample))
        else:
            array = values[holder.name]
        if bucket is not None and bucket > len(array):
            filler = array[:1] if holder.name != "sample" else np.array([bucket - 1])
            array = np.concatenate([array, np.repeat(filler, bucket - len(array), axis=0)])
        return self.to_device(np.ascontiguousarray(array, numpy_dtype(holder.dtype)), holder.dtype)


def _length(piece: Piece) -> int:
    """The number of baselines that a kernel gets for a piece."""
    baseline = piece.staged.baseline
    return piece.count if baseline is None or baseline.per_sample else int(piece.staged.tables[0].shape[0])


def _with_used_baselines(piece: Piece) -> Piece:
    """The piece with the part of a set of baselines that its rows use."""
    staged, rows = piece.staged, piece.rows
    if rows is None or staged.baseline is None or staged.baseline.per_sample:
        return piece
    first, last = int(rows.baseline.min()), int(rows.baseline.max()) + 1
    if last - first == int(staged.tables[0].shape[0]):
        return piece
    staged = dataclasses.replace(staged, tables=[table[first:last] for table in staged.tables])
    return dataclasses.replace(piece, staged=staged, rows=Rows(rows.sample, rows.baseline - first, rows.values))


def _rows(design: Design, references: int) -> int:
    return 1 + (design.rows_per_sample - 1) * (1 if design.one_reference else references)
