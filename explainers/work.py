"""Rows → work packages → kernel → per-sample results.

A row is one (sample, step). Samples are staged in chunks of at most ``batch_size``; the chunk's
rows, sample after sample, are cut into packages of ``batch_size`` rows, so that several samples
share a package and one sample may span many. A chunk of ``batch_size`` samples fills its packages
exactly. Expansion, model and reduction happen in the kernel; only samples, row descriptors and
results cross to the device.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import regions
from .backend import Backend, Kernel, Loaded, Size, Traced
from .call import Call, Chunk, Progress, Rows, Staged, Stats
from .contrast import Contrast
from .errors import NotConverged
from .forward import ForwardRun
from .graph import Graph, Node, Value
from .methods.base import Method
from .methods.perturbation import Perturbation
from .perturbed import PerturbedRun
from .program import Forward, Placeholder, Program
from .references import ReferenceActivations
from .reorder import relu_behind_pools
from .spec import Array, Numpy, Target, check_finite, largest, row_name

SMALL_PACKAGE = 32  # rows that a package has at least, whatever the cache holds


class Packages:
    """Runs one program over samples in packages, with a kernel for each shape that the engine needs."""

    def __init__(
        self, backend: Backend, traced: Traced, method: Method, wrt: tuple[Value, ...], graph: Graph,
        *, engine: str, batch_size: int | None, stats: Stats, loaded: Loaded | None = None,
    ) -> None:  # fmt: skip
        self.backend, self.traced, self.engine, self.stats = backend, traced, engine, stats
        self.static = backend.engines[engine]
        self.loaded = loaded  # kernels from a file, in place of those that the backend compiles
        self.predictor = Forward(graph)
        self.prefix: Forward | None = None
        rules = method.rule_set
        moves = not method.single or (rules is not None and rules.contrast)
        if moves and not set(wrt) <= set(graph.inputs):  # rows start behind a layer: compute it once
            self.prefix = Forward(graph.restrict((str(i), value) for i, value in enumerate(wrt)))
            self._prefix_places = [graph.inputs.index(value) for value in self.prefix.inputs]
            graph = graph.cut(wrt)
            wrt = graph.inputs[: len(wrt)]
        if rules is None or rules.reorders:
            graph = relu_behind_pools(graph, wrt)
        if rules is not None and rules.elementary:
            graph = regions.mark_behind(regions.join(graph, wrt))
        if rules is not None:
            graph = rules.prepare(graph, wrt)
        self.program = _program(graph, method, wrt)
        self.program.check_rules()
        self.method = method
        self.shapes = [self.program.sample_shape(value) for value in wrt]
        self.count = self.rows_per_sample(1)
        self.output_shape = self.program.sample_shape(self.program.output)
        self.mask_dtype = self.program.dtype(self.program.output)
        kinds = {holder.name: holder.dtype for holder in self.program.placeholders}
        self.constants = {
            name: backend.stage(array.astype(_host(kinds[name])), kinds[name], traced.device)
            for name, array in self._constants().items()
        }
        self._choose = [backend.stage(np.array(flag), self.mask_dtype, traced.device) for flag in (0.0, 1.0)]
        self.batch_size = batch_size or self._memory_batch()
        stats.batch_size = self.batch_size
        self._kernels: dict[tuple[str, Size], Kernel] = {}
        self._lock = threading.Lock()
        self._known_rows: dict[tuple[Method, bool], Rows] = {}
        self._last_mask: tuple[Target, tuple[int, int], Array] | None = None
        self.references: ReferenceActivations | None = None
        if isinstance(self.program, Contrast):
            self.references = ReferenceActivations(
                self.program, backend, traced, lambda rows: self.kernel(rows, "reference"), self.bucket
            )
        self._row_holders = [
            p for p in self.program.placeholders if p.axis == "rows" and p.name not in ("sample", "baseline")
        ]

    def rows_per_sample(self, references: int) -> int:
        """Evaluations for a sample, at first where a method refines its result."""
        design = self.program.design
        if design is None:
            return self.method.count(self.shapes)
        return 1 + (design.rows_per_sample - 1) * references

    def _constants(self) -> dict[str, Numpy]:
        return self.program.design.constants() if self.program.design else self.method.constants(self.shapes)

    # --- kernels -----------------------------------------------------------------------------

    def _memory_batch(self) -> int:
        """A package whose activations are a small part of the free memory and, if rows are small, fit the cache."""
        row = max(1, self.program.graph.row_bytes())
        budget = min(self.backend.free_bytes(self.traced.device) // 4, 2**31)
        rows = min(budget // (row * (2 if self.program.rules else 1)), self.backend.largest_package)
        cache = self.backend.cache_bytes(self.traced.device)
        if cache is not None:
            rows = min(rows, max(cache // row, SMALL_PACKAGE))
        return 1 << max(0, rows.bit_length() - 1)

    def bucket(self, rows: int) -> int | None:
        """The static size that ``rows`` rows are padded to; None where the engine takes any."""
        return 1 << (rows - 1).bit_length() if self.static else None

    def limit(self, batch_size: int) -> int:
        """Rows in a package: a power of two where shapes are static."""
        size = min(batch_size, self.batch_size) if self.stats.out_of_memory else batch_size
        return 1 << (size.bit_length() - 1) if self.static else size

    def kernel(self, rows: Size, part: str = "") -> Kernel:
        """The kernel for a static size, or the one for any; compiled at its first use.

        ``part``: ``"prefix"`` (up to a layer), ``"reference"``, ``"predict"``, or the program itself. ``rows``:
        of every leading axis, or of (samples, baselines).
        """
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
            return self.loaded.kernel(part or "explain", rows)
        return self.backend.compile(self._part(part), self.traced, engine=self.engine, rows=rows)

    def parts(self) -> dict[str, tuple[Any, Kernel | None]]:
        """The programs that calls run, each with its kernel for any size, if there is one yet."""
        names = ["", "predict"] + ["prefix"] * (self.prefix is not None) + ["reference"] * (self.references is not None)
        return {part or "explain": (self._part(part), self._kernels.get((part, None))) for part in names}

    def _part(self, part: str) -> Any:
        if part in ("", "prefix", "predict"):
            return {"": self.program, "prefix": self.prefix, "predict": self.predictor}[part]
        assert isinstance(self.program, Contrast)
        program = dataclasses.replace(self.program, audit=True, grid=False) if "audit" in part else self.program
        return program.reference if "reference" in part else program

    def compile(self, rows: int) -> None:
        """Compile what packages of ``rows`` rows need."""
        size = self.bucket(rows)
        if self.prefix:
            self.kernel(size, "prefix")
        if isinstance(self.program, Contrast):
            self.kernel(self.bucket(1) if self.program.shared else size, "reference")
            if self.program.grid:  # pairs of static sizes are known once there are references
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

    def run(self, call: Call) -> Iterator[Chunk]:
        """Results chunk by chunk, in order."""
        start = 0
        while start < len(call):
            size = self.limit(call.batch_size)
            stop = min(start + size, len(call))
            try:
                chunk = self._chunk(call, start, stop, size)
            except Exception as error:
                if size == 1 or not self.backend.is_out_of_memory(error):
                    raise
                self.stats.out_of_memory += 1
                self.batch_size = self.stats.batch_size = max(1, size // 2)
                continue
            yield chunk
            start = stop

    def predict(self, inputs: list[Array], count: int, batch_size: int, check: bool) -> list[Array]:
        """f at every sample, a part for each package."""
        if not count:
            return [np.zeros((0, *self.output_shape), self.mask_host_dtype)]
        places = [self.predictor.graph.inputs.index(value) for value in self.predictor.inputs]
        size = self.limit(batch_size)
        parts = []
        for start in range(0, count, size):
            stop = min(start + size, count)
            arguments = [self._input(place, inputs[place][start:stop], start, count, check) for place in places]
            bucket = self.bucket(stop - start)
            if bucket is not None:
                arguments = [self.backend.pad(array, bucket) for array in arguments]
            parts.append(self.kernel(bucket, "predict")(*arguments)[0][: stop - start])
        return parts

    def _input(self, place: int, part: Array, start: int, count: int, check: bool) -> Array:
        """Samples from ``start`` on of one input, checked, on the device."""
        spec = self.traced.signature.inputs[place]
        if check and spec.floating:
            self._check_input(part, f"input {spec.name!r}", start, count)
        return self._to_device(part, spec.dtype)

    def _chunk(self, call: Call, start: int, stop: int, size: int) -> Chunk:
        staged = self._stage(call, start, stop)
        if self.program.design is not None:
            kind = PerturbedRun if isinstance(self.method, Perturbation) else ForwardRun
            return kind(self, call, staged, start, stop, size).run()
        if self.references is not None:
            chunk = self._contrast_chunk(call, staged, start, stop, size)
        elif self.method.single:
            y, *results = self._run_samples(staged)
            if call.progress:
                call.progress(staged.count)
            errors: list[Numpy | None] = [None] * len(results)
            chunk = Chunk(start, stop, results, errors)
            if call.details:
                chunk.outputs = self.backend.numpy(y)
        else:
            chunk = self._rows_chunk(call, staged, start, stop, size)
        if call.details:
            chunk.target = largest(chunk.outputs) if call.target.kind == "max" and chunk.outputs is not None else None
        return chunk

    # --- samples against references ----------------------------------------------------------

    def _contrast_chunk(self, call: Call, staged: Staged, start: int, stop: int, size: int) -> Chunk:
        """Every sample compared with its reference, or with every one of a distribution."""
        assert staged.baseline is not None
        if not staged.baseline.distribution:
            assert self.references is not None
            y, at_reference, sums = self._aligned(staged, self.references)
            outputs = self.backend.numpy(y) if call.details else None
            references = self.backend.numpy(at_reference) if call.details else None
            pairs = 1
        else:
            pairs = len(staged.baseline)
            outputs, references, sums = self._against_all(call, staged, size)
        chunk = Chunk(start, stop, sums, [None] * len(sums), outputs)
        if call.details:
            assert references is not None
            chunk.baseline_outputs = np.broadcast_to(references, (staged.count, *self.output_shape))
            chunk.evaluations = np.full(staged.count, pairs)
        if call.progress:
            call.progress(staged.count)
        return chunk

    def _aligned(
        self, staged: Staged, references: ReferenceActivations, part: str = ""
    ) -> tuple[Array, Array, list[Array]]:
        """(f(x), f(reference), results) of samples that have a reference each, or share one."""
        assert staged.baseline is not None
        count = staged.count
        one = None if staged.baseline.per_sample else references.one_row(staged.inputs)
        if one is not None:
            row = [array[:1] for array in staged.inputs] if one else []
            activations = references.shared(staged.baseline, 0, 1, row, one)
        else:
            tables = [self.backend.expand(t, count) if t.shape[0] != count else t for t in staged.tables]
            activations = references.run(tables, staged.inputs)
        arguments = [*staged.inputs, staged.mask, staged.choose, *activations]
        size = self.bucket(count)
        if size is not None:
            arguments = [a if a is staged.choose else self.backend.pad(a, size) for a in arguments]
        began = time.perf_counter()
        y, *results = self.kernel(size, part)(*arguments)
        self.stats.ran(count, (size or count) - count, time.perf_counter() - began)
        if size is not None and size != count:
            y, results = y[:count], [array[:count] for array in results]
        return y, activations[0], results

    def _against_all(self, call: Call, staged: Staged, size: int) -> tuple[Numpy | None, Numpy | None, list[Array]]:
        """Means over the references, with f of each sample and the mean of f over the references."""
        assert isinstance(self.program, Contrast)
        assert staged.baseline is not None
        if not self.program.grid:
            return self._pairs(call, staged, size)
        assert self.references is not None
        total = len(staged.baseline)
        width = self.limit(min(total, size))
        height = max(1, self.limit(size) // width)
        outputs: list[Numpy] = []
        parts: list[list[Array]] = []
        references: Any = 0.0
        for first in range(0, staged.count, height):
            last = min(first + height, staged.count)
            sums: list[Array] = []
            references = 0.0
            for begin in range(0, total, width):
                end = min(begin + width, total)
                if self.static and end - begin != width:  # a static size: the last ones one by one
                    spans = [(i, i + 1) for i in range(begin, end)]
                else:
                    spans = [(begin, end)]
                for low, high in spans:
                    activations = self.references.shared(staged.baseline, low, high)
                    y, found = self._grid(staged, first, last, activations, high - low)
                    sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
                    if call.details:
                        references = references + self.backend.numpy(activations[0]).sum(0, dtype=np.float64)
            parts.append([self.backend.numpy(array) / total for array in sums])
            if call.details:
                outputs.append(self.backend.numpy(y))
        means: list[Array] = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        if not call.details:
            return None, None, means
        return np.concatenate(outputs), references / total, means

    def _grid(
        self, staged: Staged, first: int, last: int, activations: list[Array], references: int
    ) -> tuple[Array, list[Array]]:
        """One kernel call: samples first … last−1 against some references."""
        count = last - first
        arguments = [array[first:last] for array in (*staged.inputs, staged.mask)]
        size = self.bucket(count)
        if size is not None:
            arguments = [self.backend.pad(array, size) for array in arguments]
        began = time.perf_counter()
        shape = None if size is None else (size, references)
        y, *results = self.kernel(shape)(*arguments, staged.choose, *activations)
        padded = ((size or count) - count) * references
        self.stats.ran(count * references, padded, time.perf_counter() - began)
        return y[:count], [array[:count] for array in results]

    def _pairs(self, call: Call, staged: Staged, size: int) -> tuple[Numpy | None, Numpy | None, list[Array]]:
        """Like a grid, where the references' activations depend on the sample: every pair runs whole."""
        assert staged.baseline is not None
        assert self.references is not None
        total, n = len(staged.baseline), staged.count
        sums: list[Numpy] = [np.zeros((n, *shape), np.float64) for shape in self.shapes]
        outputs = np.zeros((n, *self.output_shape), np.float64)
        references = np.zeros((n, *self.output_shape), np.float64)
        for first in range(0, n * total, size):
            pair = np.arange(first, min(first + size, n * total))
            sample, reference = pair // total, pair % total
            some = dataclasses.replace(
                staged,
                count=len(pair),
                inputs=[self.backend.take(array, sample) for array in staged.inputs],
                mask=self.backend.take(staged.mask, sample),
                tables=[self.backend.take(table, reference) for table in staged.tables],
                baseline=dataclasses.replace(staged.baseline, per_sample=True, distribution=False, fixed=False),
            )
            y, at_reference, results = self._aligned(some, self.references)
            for array, part in zip(sums, results, strict=True):
                np.add.at(array, sample, self.backend.numpy(part))
            outputs[sample] = self.backend.numpy(y)
            np.add.at(references, sample, self.backend.numpy(at_reference))
        kinds = [_host(self.program.dtype(value)) for value in self.program.wrt]
        means = [(array / total).astype(kind) for array, kind in zip(sums, kinds, strict=True)]
        return outputs, references / total, list(means)

    def audit(self, call: Call) -> list[tuple[Node, Numpy]]:
        """By how much each walked node is incomplete, for each sample."""
        program = self._part("audit")
        references = ReferenceActivations(
            program, self.backend, self.traced, lambda rows: self.kernel(rows, "audit reference"), self.bucket
        )
        rows = []
        for sample in range(len(call)):
            _, _, (gaps,) = self._aligned(self._stage(call, sample, sample + 1), references, "audit")
            rows.append(self.backend.numpy(gaps)[:1])
        gaps = np.concatenate(rows)
        return [(node, gaps[:, i]) for i, node in enumerate(program.walked)]

    def _rows_chunk(self, call: Call, staged: Staged, start: int, stop: int, size: int) -> Chunk:
        """Sums over each sample's rows; endpoints where the call needs them."""
        adaptive = self.method.refines_to is not None
        chunk = Chunk(start, stop, [], [])
        target = call.target
        if call.details or adaptive or target.kind == "max":
            chunk.outputs = self.endpoint_outputs(staged, "input", size)
        if target.kind == "max" and chunk.outputs is not None:
            target = largest(chunk.outputs)
            mask = self.mask_to_device(target.mask(0, staged.count, self.mask_host_dtype))
            staged = dataclasses.replace(staged, mask=mask)
        if (call.details or adaptive) and self.method.baseline != "none":
            chunk.baseline_outputs = self._baseline_outputs(staged, size)
        if adaptive:
            self._until_tolerance(call, staged, chunk, size)
            return chunk
        sums = self._sum_rows(staged, self.method, np.arange(staged.count), size, call.progress)
        per = self.method.accumulators
        pairs = [self.method.finish(sums[i : i + per], self.count) for i in range(0, len(sums), per)]
        kinds = [_host(self.program.dtype(value)) for value in self.program.wrt]
        chunk.attributions = [a.astype(kind, copy=False) for (a, _), kind in zip(pairs, kinds, strict=True)]
        chunk.standard_errors = [error for _, error in pairs]
        return chunk

    def _sum_rows(
        self, staged: Staged, method: Method, samples: Numpy, size: int, progress: Progress | None
    ) -> list[Numpy]:
        """The accumulators of ``samples`` (ascending, of the chunk), each (len(samples), …)."""
        count = method.count(self.shapes)
        sums: list[Numpy] | None = None
        waiting: tuple[int, int, list[Array]] | None = None
        total = len(samples) * count
        alike = not method.sampled and not (staged.baseline and staged.baseline.distribution)
        if alike and not self.static and total <= size and len(samples) == staged.count:  # one package, no draws
            result = self._call(staged, 0, staged.count, self._first_rows(method, staged, size))
            if progress:
                progress(total)
            return [self.backend.numpy(array) for array in result[1:]]
        for first in range(0, total, size):
            row = np.arange(first, min(first + size, total))
            local, step = row // count, row % count
            result = self._package(staged, method, samples, local, step)
            if sums is None and len(row) == total:
                sums = [self.backend.numpy(array) for array in result[1:]]
                sums = [array[: len(samples)] for array in sums]
            else:
                if waiting:
                    sums = self._add(sums, waiting, len(samples))
                waiting = (int(local[0]), int(local[-1]) + 1, list(result[1:]))
            if progress:
                progress(len(row))
        if waiting:
            sums = self._add(sums, waiting, len(samples))
        assert sums is not None
        return sums

    def _first_rows(self, method: Method, staged: Staged, size: int) -> Rows:
        """All rows of the chunk's samples, sample after sample, as slices of what is kept on the device."""
        count = method.count(self.shapes)
        aligned = bool(staged.baseline and staged.baseline.per_sample)
        known = self._known_rows.get((method, aligned))
        if known is None or len(known.sample) < staged.count * count:
            sample, step = np.divmod(np.arange(size // count * count), count)
            known = Rows(sample, np.zeros(len(step), np.int64), method.rows(step, np.zeros(len(step), np.uint64)))
            holders = [p for p in self.program.placeholders if p.axis == "rows"]
            known.staged = {p.name: self._row_values(p, staged, known, None) for p in holders}
            self._known_rows[method, aligned] = known
        rows = staged.count * count
        parts = {name: array[:rows] for name, array in known.staged.items()}
        return Rows(known.sample[:rows], known.baseline[:rows], {}, parts)

    def _add(self, sums: list[Numpy] | None, part: tuple[int, int, list[Array]], count: int) -> list[Numpy]:
        first, last, arrays = part
        host = [self.backend.numpy(array)[: last - first] for array in arrays]
        if sums is None:
            sums = [np.zeros((count, *array.shape[1:]), array.dtype) for array in host]
        for total, array in zip(sums, host, strict=True):
            total[first:last] += array
        return sums

    def _package(self, staged: Staged, method: Method, samples: Numpy, local: Numpy, step: Numpy) -> tuple[Array, ...]:
        """Run the rows (samples[local], step); ``local`` ascends."""
        chosen = samples[local]
        seeds = staged.seeds[chosen] if staged.seeds is not None else np.zeros(len(step), np.uint64)
        values = method.rows(step, seeds)
        baseline = np.zeros(len(step), np.int64)
        if staged.baseline is not None and staged.baseline.distribution:
            baseline = method.references(step, seeds, len(staged.baseline))
        return self.package(staged, samples[local[0] : local[-1] + 1], local - local[0], baseline, values)

    def package(
        self, staged: Staged, touched: Numpy, sample: Numpy, baseline: Numpy, values: dict[str, Numpy]
    ) -> tuple[Array, ...]:
        """Run rows of the samples ``touched`` (ascending): ``sample``: which of these each row is of."""
        first, last = int(touched[0]), int(touched[-1]) + 1
        if last - first != len(touched):
            inputs = [self.backend.take(array, touched) for array in staged.inputs]
            tables = staged.tables
            if staged.baseline is not None and staged.baseline.per_sample:
                tables = [self.backend.take(table, touched) for table in tables]
            staged = dataclasses.replace(
                staged, inputs=inputs, mask=self.backend.take(staged.mask, touched), tables=tables
            )
            first, last = 0, len(touched)
        return self._call(staged, first, last, Rows(sample, baseline, values))

    def endpoint_outputs(self, staged: Staged, which: str, size: int) -> Numpy:
        """f at each sample, or at its baseline: (n, …)."""
        count = staged.count
        values = self.endpoint_rows(which)
        parts = []
        for first in range(0, count, size):
            last = min(first + size, count)
            rows = np.arange(last - first)
            row_values = {name: np.broadcast_to(value, (last - first, *value.shape)) for name, value in values.items()}
            index = np.zeros(last - first, np.int64)
            result = self._call(staged, first, last, Rows(rows, index, row_values))
            parts.append(self.backend.numpy(result[0])[: last - first])
        return np.concatenate(parts)

    def endpoint_rows(self, which: str) -> dict[str, Numpy]:
        given = (self.program.design or self.method).endpoint(which)
        return {p.name: np.full(p.shape, given[p.name], _host(p.dtype)) for p in self._row_holders}

    def _baseline_outputs(self, staged: Staged, size: int) -> Numpy:
        """f(baseline) for each sample, (n, …); for a distribution the mean over its references."""
        if staged.baseline is None or not staged.baseline.distribution:
            return self.endpoint_outputs(staged, "baseline", size)
        values = self.endpoint_rows("baseline")
        total: Any = 0.0
        count = len(staged.baseline)
        for first in range(0, count, size):
            index = np.arange(first, min(first + size, count))
            row_values = {name: np.broadcast_to(value, (len(index), *value.shape)) for name, value in values.items()}
            result = self._call(staged, 0, 1, Rows(np.zeros(len(index), np.int64), index, row_values))
            total = total + self.backend.numpy(result[0])[: len(index)].sum(axis=0, dtype=np.float64)
        return np.broadcast_to(total / count, (staged.count, *self.output_shape))

    def _until_tolerance(self, call: Call, staged: Staged, chunk: Chunk, size: int) -> None:
        """Refine the method until each sample is complete; the finished leave the packages."""
        method: Method = self.method
        tolerance = method.refines_to or 0.0
        assert chunk.outputs is not None
        assert chunk.baseline_outputs is not None
        mask = self.backend.numpy(staged.mask)
        axes = tuple(range(1, mask.ndim))
        high = (chunk.outputs * mask).sum(axis=axes, dtype=np.float64)
        low = (chunk.baseline_outputs * mask).sum(axis=axes, dtype=np.float64)
        rounding = 8 * np.finfo(chunk.outputs.dtype).eps * np.maximum(np.maximum(abs(high), abs(low)), 1e-30)
        allowed = np.maximum(tolerance * abs(high - low), rounding)
        results = [np.zeros((staged.count, *shape), chunk.outputs.dtype) for shape in self.shapes]
        chunk.evaluations = np.zeros(staged.count, np.int64)
        left = np.arange(staged.count)
        while True:
            sums = self._sum_rows(staged, method, left, size, call.progress)
            chunk.evaluations[left] += method.count(self.shapes)
            reached = sum(a.reshape(len(left), -1).sum(axis=1, dtype=np.float64) for a in sums)
            gap = abs(reached - (high - low)[left])
            done = gap <= allowed[left]
            for result, array in zip(results, sums, strict=True):
                result[left[done]] = array[done]
            left = left[~done]
            if not len(left):
                break
            finer = method.refined()
            if finer is None:
                worst = int(left[0])
                raise NotConverged(
                    f"{method.name} of {row_name(chunk.start + worst, len(call))} is off by {gap[~done][0]:.3g} "
                    f"after {method.count(self.shapes)} steps; tolerance={tolerance} allows "
                    f"{allowed[worst]:.3g} ({len(left)} samples). Raise max_steps or tolerance."
                )
            method = finer
        chunk.attributions = list(results)
        chunk.standard_errors = [None] * len(results)

    def _run_samples(self, staged: Staged) -> tuple[Array, ...]:
        """One kernel call for methods of one row a sample."""
        arguments = [*staged.inputs, staged.mask, staged.choose]
        bucket = self.bucket(staged.count)
        if bucket is not None:
            arguments[:-1] = [self.backend.pad(array, bucket) for array in arguments[:-1]]
        began = time.perf_counter()
        result = self.kernel(bucket)(*arguments)
        padded = (bucket or staged.count) - staged.count
        self.stats.ran(staged.count, padded, time.perf_counter() - began)
        return tuple(array[: staged.count] for array in result) if padded else result

    # --- one package -------------------------------------------------------------------------

    def _to_device(self, array: Array, dtype: str) -> Array:
        return self.backend.stage(array, dtype, self.traced.device)

    def _stage(self, call: Call, start: int, stop: int) -> Staged:
        """Bring samples start … stop−1, their masks and baselines to the device."""
        whole = start == 0 and stop == len(call)
        inputs = []
        for place, array in enumerate(call.inputs):
            part = array if whole else array[start:stop]
            inputs.append(self._input(place, part, start, len(call), call.check))
        count = stop - start
        if self.prefix is not None:
            size = self.bucket(count)
            needed = [inputs[place] for place in self._prefix_places]
            padded = [self.backend.pad(array, size) for array in needed] if size else needed
            cut = self.kernel(size, "prefix")(*padded)
            inputs = [*(array[:count] for array in cut), *inputs]
        mask = self._mask(call.target, start, stop)
        choose = self._choose[call.target.kind == "max"]
        tables = []
        if call.baseline is not None:
            for table, value in zip(call.baseline.tables, self.program.wrt, strict=True):
                part = table[start:stop] if call.baseline.per_sample else table
                tables.append(self._to_device(part, self.program.dtype(value)))
        seeds = call.seeds[start:stop] if call.seeds is not None else None
        return Staged(count, inputs, mask, choose, tables, call.baseline, seeds)

    def _mask(self, target: Target, start: int, stop: int) -> Array:
        """The target's weights on the device; those of the last call are kept."""
        known, key = self._last_mask, (start, stop)
        if known is not None and known[0] is target and known[1] == key:
            return known[2]
        mask = self.mask_to_device(target.mask(start, stop, self.mask_host_dtype))
        self._last_mask = target, key, mask
        return mask

    def stage(self, array: Numpy, value: Value) -> Array:
        """``array`` as ``value`` of the graph."""
        return self._to_device(array, self.program.dtype(value))

    def run_rows(self, staged: Staged, rows: Rows) -> tuple[Array, ...]:
        """One kernel call on all samples of ``staged``."""
        return self._call(staged, 0, staged.count, rows)

    def run_endpoints(self, call: Call) -> None:
        """The model at the call's samples themselves."""
        self.endpoint_outputs(self._stage(call, 0, len(call)), "input", self.limit(call.batch_size))

    @property
    def mask_host_dtype(self) -> str:
        return _host(self.mask_dtype)

    def mask_to_device(self, mask: Numpy) -> Array:
        return self._to_device(mask, self.mask_dtype)

    def host_dtype(self, value: Value) -> str:
        """The numpy dtype that carries attributions of ``value``."""
        return _host(self.program.dtype(value))

    def _check_input(self, array: Array, what: str, start: int, count: int) -> None:
        if isinstance(array, np.ndarray):
            check_finite(array, what, start, count)
        elif not self.backend.finite(array):
            check_finite(self.backend.numpy(array), what, start, count)

    def _call(self, staged: Staged, first: int, last: int, rows: Rows) -> tuple[Array, ...]:
        """One kernel call on samples first … last−1 of the chunk, for ``rows``."""
        count = len(rows.sample)
        bucket = self.bucket(count)
        whole = first == 0 and last == staged.count
        tables = iter(staged.tables)
        samples = iter([*staged.inputs, staged.mask])
        arguments = []
        for holder in self.program.placeholders:
            if holder.axis == "samples":
                array = next(samples)
                argument = array if whole else array[first:last]
            elif holder.axis == "baselines":
                argument = self._table(next(tables), staged, first, last, rows, bucket)
            elif holder.axis == "rows":
                argument = rows.staged.get(holder.name)
                if argument is None:
                    argument = self._row_values(holder, staged, rows, bucket)
            else:
                argument = self.constants[holder.name]
            if bucket is not None and holder.axis in ("samples", "baselines"):
                argument = self.backend.pad(argument, bucket)
            arguments.append(argument)
        began = time.perf_counter()
        result = self.kernel(bucket)(*arguments)
        self.stats.ran(count, (bucket or count) - count, time.perf_counter() - began)
        return result

    def _table(self, table: Array, staged: Staged, first: int, last: int, rows: Rows, bucket: int | None) -> Array:
        """The baselines that a package's rows point into."""
        assert staged.baseline is not None
        if staged.baseline.per_sample:
            return table[first:last]
        if bucket is not None and staged.baseline.distribution:  # a static shape: bring the rows' own
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
        return self._to_device(np.ascontiguousarray(array, _host(holder.dtype)), holder.dtype)


def _program(graph: Graph, method: Method, wrt: tuple[Value, ...]) -> Program:
    """The program for a method: one that compares with a reference where the rule set does."""
    rules = method.rule_set
    if rules is None or not rules.contrast:
        return Program(graph, method, wrt)
    program = Contrast(graph, method, wrt)
    return Contrast(graph, method, wrt, grid=True) if method.baseline == "references" and program.shared else program


def _host(dtype: str) -> str:
    """The numpy dtype that carries ``dtype``."""
    return "float32" if dtype in ("bfloat16", "float16") else dtype
