"""Samples through the programs of an influence: compiled once, run batch by batch, summed in float64."""

from __future__ import annotations

import copy
import hashlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .. import random_numbers, sources
from ..backend import WARM_RUNS, Backend, Kernel, Traced, on_host
from ..errors import InputError, NonFiniteError, TargetError, TraceError, UnsupportedOperation
from ..explainer import bind
from ..forks import Home
from ..graph import Value
from ..losses import Loss, OutputLoss
from ..program.ensemble import WithWeights, number_weights
from ..spec import Array, Numpy, Signature, all_finite, numpy_dtype
from .programs import (
    Covariances,
    Curvature,
    Derivatives,
    Factors,
    HarmonicSums,
    Lengths,
    Norms,
    Pairs,
    PerSample,
    Perturbations,
    Projections,
    Sides,
    Squares,
    Turned,
    TurnedProducts,
)
from .sites import Block, Sites

Vectors = list[Numpy]  # for each block (K, P), or what a method has in its place
BATCH = 128  # samples in a batch, unless activations or the caller say otherwise
MOST_BYTES = 2**28  # of the derivatives of a batch


@dataclass(frozen=True)
class Start:
    """What the reverse walk starts from, other than the gradient: signs of a draw, or one output.

    draw: random signs, by (seed, sample, draw). output: 1 at this output, else 0.
    """

    seed: int = 0
    draw: int = 0
    output: int | None = None

    def signs(self, start: int, count: int, shape: tuple[int, ...]) -> Numpy:
        size = math.prod(shape)
        if self.output is not None:
            unit = np.zeros((count, size))
            unit[:, self.output] = 1
            return unit.reshape(count, *shape)
        seeds = random_numbers.seeds_at(self.seed, start, count)
        draws = self.draw * size + np.arange(size)
        keys = random_numbers.draw_keys(seeds[:, None], np.broadcast_to(draws, (count, size)))
        return np.where(keys >> np.uint64(63), 1.0, -1.0).reshape(count, *shape)


class Samples:
    """Samples with their targets, which can be read anywhere and as often as needed."""

    def __init__(self, source: Any, signature: Signature, target: str, what: str) -> None:
        self.signature, self.target, self.what = signature, target, what
        found = None if hasattr(source, "__next__") else sources.sized(_together(source, signature, target))
        if found is None:
            raise InputError(
                f"{what}: samples of a {type(source).__name__} cannot be read at any place and again, and influence "
                "reads them several times, in the same order. Give arrays (inputs, targets), a dict or a dataset with "
                "columns, a memory map or zarr; instead of a loader of batches, what it loads from"
            )
        self.source = found
        if not len(found):
            raise InputError(f"{what}: there are no samples")

    def __len__(self) -> int:
        return len(self.source)

    def read(self, start: int, stop: int) -> tuple[list[Any], Any]:
        """The model's inputs in order, and the targets, of the samples start … stop−1."""
        batch = self.source.read(start, stop)
        *inputs, target = sources.picked(batch, self.signature, None, self._label(batch))
        return list(inputs), target

    def some(self, index: Sequence[int]) -> Samples:
        """These samples, in memory."""
        parts = [self.read(int(place), int(place) + 1) for place in index]
        columns = zip(*((*inputs, target) for inputs, target in parts), strict=True)
        arrays = tuple(np.concatenate([np.asarray(part) for part in column]) for column in columns)
        return Samples(arrays, self.signature, self.target, self.what)

    def _label(self, batch: Any) -> Any:
        if isinstance(batch, Mapping):
            return self.target
        if isinstance(batch, tuple):
            count = len(self.signature.inputs)
            if len(batch) != count + 1:
                raise InputError(
                    f"{self.what}: {len(batch)} array{'s' if len(batch) > 1 else ''} given, where the model's inputs "
                    f"({self.signature}) and the targets make {count + 1}"
                )
            return lambda parts: parts[count]
        raise InputError(
            f"{self.what}: inputs without targets. Give (inputs, targets), or a dict or a dataset with a column "
            f"{self.target!r}"
        )


def _together(source: Any, signature: Signature, target: str) -> Any:
    """((x1, x2), y), ({name: x}, y) and a TensorDataset as one tuple or dict."""
    source = getattr(source, "tensors", source)
    if isinstance(source, (tuple, list)) and len(source) == 2:
        inputs, targets = source
        if isinstance(inputs, (tuple, list)) and len(inputs) == len(signature.inputs) and len(signature.inputs) > 1:
            source = (*inputs, targets)
        elif isinstance(inputs, Mapping):
            source = {**inputs, target: targets}
    if isinstance(source, (tuple, list)):
        parts = tuple(part if hasattr(part, "shape") else np.asarray(part) for part in source)
        if any(len(part.shape) == 0 for part in parts):
            raise InputError("a batch axis is missing: of one sample give (x[None], y[None])")
        return parts
    return source


@dataclass
class Runner:
    """The programs of one model and loss, with weights of its own. Any number of threads may share one."""

    backend: Backend
    model: Any
    traced: Traced
    sites: Sites
    blocks: tuple[Block, ...]
    loss: Loss
    engine: str
    batch_size: int | None = None
    kernels: dict[Any, Kernel] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.RLock)
    weights: dict[Value, Array] = field(init=False)  # which kernels take behind their arguments
    home: Home = field(default_factory=lambda: Home("this influence"))
    base: PerSample = field(init=False)  # the program of the losses alone
    sizes: tuple[tuple[int, int, int], ...] = field(init=False)  # (G, L, R) of each block
    by_factors: tuple[bool, ...] = field(init=False)  # the blocks whose factors take less than their derivatives

    def __post_init__(self) -> None:
        self.weights = self._copied(self.traced.weights)
        self.base = PerSample(self.sites, self.blocks, self.loss)
        program = Factors(self.sites, self.blocks, self.loss)
        _, *found = self.kernel(program)(*self._blank(program, 1), *self.weights.values())
        shapes = [tuple(int(size) for size in array.shape[1:]) for array in found]
        pairs = list(zip(shapes[::2], shapes[1::2], strict=True))
        self.sizes = tuple((left[0], left[2], right[2]) for left, right in pairs)
        self.by_factors = tuple(a[1] == 1 and a[2] + b[2] < a[2] * b[2] for a, b in pairs)

    @property
    def inputs(self) -> Signature:
        """The model's inputs, without the targets, which a loss given as a function takes as one more."""
        signature = self.traced.signature
        return replace(signature, inputs=signature.inputs[:-1]) if self._of_function else signature

    @property
    def _of_function(self) -> bool:
        return isinstance(self.loss, OutputLoss)

    @property
    def entries(self) -> list[int]:
        return [math.prod(size) for size in self.sizes]

    @property
    def total(self) -> int:
        return sum(self.entries)

    @property
    def outputs(self) -> int:
        return math.prod(self.base.output_shape)

    @property
    def dtype(self) -> str:
        return self.base.dtype

    @property
    def host(self) -> str:
        """The numpy dtype of the numbers that go to the device."""
        return numpy_dtype(self.dtype)

    def size(self, per_sample: int) -> int:
        """Samples in a batch. ``per_sample``: the numbers that the program makes of each."""
        if self.batch_size is not None:
            return self.batch_size
        own = 8 * max(per_sample, 1) + self.sites.graph.row_bytes()
        return int(max(1, min(BATCH, MOST_BYTES // own)))

    def kernel(self, program: PerSample) -> Kernel:
        """The kernel of a program, which takes the weights behind the program's arguments."""
        self.home.check()
        with self.lock:
            if program.key not in self.kernels:
                own = WithWeights(program, tuple(self.weights))
                with self.backend.neutral():
                    kernel = self.backend.compile(own, self.traced, engine=self.engine, rows=None)
                    for _ in range(WARM_RUNS):
                        kernel(*self._blank(program, 2), *self.weights.values())
                self.kernels[program.key] = kernel
            return self.kernels[program.key]

    def _blank(self, program: PerSample, count: int) -> list[Array]:
        """Zeros for all arguments of a program, of ``count`` samples."""
        holders = program.placeholders
        shapes = [(*((count,) if holder.axis else ()), *holder.shape) for holder in holders]
        return [self.stage(np.zeros(s, numpy_dtype(h.dtype)), h.dtype) for s, h in zip(shapes, holders, strict=True)]

    def stage(self, array: Any, dtype: str) -> Array:
        return self.backend.stage(array, dtype, self.traced.device)

    # --- batches -----------------------------------------------------------------------------

    def checked(self, samples: Samples, start: int, stop: int) -> list[Array]:
        """The staged arguments of some samples: inputs and targets."""
        signature, what = self.traced.signature, samples.what
        given, target = samples.read(start, stop)
        if self._of_function:
            given, target = [*given, target], np.zeros(stop - start)
        arrays, count = bind.arrays(self.backend, signature, given)
        for array, spec in zip(arrays, signature.inputs, strict=True):
            if spec.floating:
                self._check_input(on_host(self.backend, array), f"{what}: input {spec.name!r}", start)
        try:
            y = self.loss.checked(bind.plain(target), self.base.output_shape, self.host, count)
        except TargetError as error:
            error.args = (f"{what}: of samples {start} … {stop - 1}, {error.args[0]}",)
            raise
        _, kind = self.loss.target(self.base.output_shape, self.dtype)
        pairs = zip(arrays, signature.inputs, strict=True)
        staged = [self.stage(array, spec.dtype) for array, spec in pairs]
        return [*staged, self.stage(y, kind)]

    def run(
        self, program: PerSample, samples: Samples, further: Sequence[Array] = (), start: Start | None = None,
        *, per_sample: int | None = None, span: tuple[int, int] | None = None,
    ) -> Iterator[tuple[int, list[Numpy]]]:  # fmt: skip
        """The results of each batch, without the losses, with the number of its first sample.

        further: arguments for all samples, on the device.
        """
        kernel = self.kernel(program)
        for begin, arguments in self._batches(samples, self.total if per_sample is None else per_sample, span):
            if start is not None:
                signs = start.signs(begin, int(arguments[0].shape[0]), program.output_shape)
                arguments.append(self.stage(signs.astype(self.host), self.dtype))
            yield begin, self._results(kernel, [*arguments, *further], samples, begin)

    def _batches(
        self, samples: Samples, per_sample: int, span: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, list[Array]]]:
        """The arguments of each batch on the device, with the number of its first sample."""
        first, last = span or (0, len(samples))
        size = self.size(per_sample)
        for begin in range(first, last, size):
            yield begin, self.checked(samples, begin, min(begin + size, last))

    def _results(self, kernel: Kernel, arguments: Sequence[Array], samples: Samples, begin: int) -> list[Numpy]:
        """The results of a batch on the host, checked, without the losses where there is more."""
        with self.backend.neutral():
            results = kernel(*arguments, *self.weights.values())
        found = [self.backend.numpy(array) for array in results]
        self._check(found, samples, begin)
        return found[1:] or found

    @staticmethod
    def _check_input(array: Numpy, what: str, start: int) -> None:
        if not all_finite(array):
            row = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))
            raise NonFiniteError(f"{what} holds NaN or infinity, first in sample {start + row}: leave such samples out")

    def _check(self, found: Sequence[Numpy], samples: Samples, begin: int) -> None:
        if not all_finite(found[0]):
            row = begin + int(np.argmin(np.isfinite(found[0])))
            raise NonFiniteError(f"{samples.what}: the loss of sample {row} is NaN or infinite")
        for array in found[1:]:
            if not np.isfinite(array).all():
                count = len(found[0])
                raise InputError(
                    f"{samples.what}: derivatives of samples {begin} … {begin + count - 1} hold NaN or infinity, and "
                    "the losses do not: the model has a derivative that overflows there"
                )

    def staged(self, arrays: Sequence[Numpy]) -> list[Array]:
        return [self.stage(np.ascontiguousarray(array, self.host), self.dtype) for array in arrays]

    # --- what methods need -------------------------------------------------------------------

    def losses(self, samples: Samples) -> Numpy:
        """ℓ of each sample, (N,)."""
        program = self.base
        return np.concatenate([found[0] for _, found in self.run(program, samples, per_sample=1)]).astype(np.float64)

    def derivatives(self, samples: Samples, start: Start | None = None, span: tuple[int, int] | None = None) -> Vectors:
        """∂ℓ/∂θ of each sample, for each block (N, P)."""
        program = Derivatives(self.sites, self.blocks, self.loss, start is not None)
        parts = [found for _, found in self.run(program, samples, (), start, span=span)]
        joined = [np.concatenate(block).astype(np.float64) for block in zip(*parts, strict=True)]
        return [block.reshape(len(block), -1) for block in joined]

    def products(self, samples: Samples, vectors: Vectors, span: tuple[int, int] | None = None) -> Numpy:
        """Each sample's derivative times each vector, (K, N)."""
        return self._pairs(samples, vectors, (False,) * len(self.blocks), self.total, span)

    def perturbations(self, samples: Samples, vectors: Vectors) -> list[Numpy]:
        """∂/∂x of each sample's derivative times each vector, for each floating input (K, N, …)."""
        names = [f"input_{value.node}" for value in self.sites.graph.inputs]
        moving = [name for name, spec in zip(names, self.inputs.inputs, strict=False) if spec.floating]
        program = Perturbations(self.sites, self.blocks, self.loss, False, self.sizes, tuple(moving))
        try:
            kernel = self.kernel(program)
        except TraceError as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UnsupportedOperation(
                f"the model has an operation whose second derivative {self.backend.name} lacks: {reason[:200]}"
            ) from error
        staged = [self.staged(own) for own in zip(*vectors, strict=True)]
        parts = []  # of each batch and input (K, n, …)
        for begin, arguments in self._batches(samples, 4 * self.total):
            found = [self._results(kernel, [*arguments, *own], samples, begin) for own in staged]
            parts.append([np.stack(arrays) for arrays in zip(*found, strict=True)])
        return [np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)]

    def _pairs(
        self, samples: Samples, others: Vectors, by_factors: tuple[bool, ...], per_sample: int,
        span: tuple[int, int] | None,
    ) -> Numpy:  # fmt: skip
        program = Pairs(self.sites, self.blocks, self.loss, False, self.sizes, by_factors)
        parts = self.run(program, samples, self.staged(others), per_sample=per_sample, span=span)
        return np.concatenate([found[0] for _, found in parts]).T.astype(np.float64)

    def turned(
        self, samples: Samples, bases: Sequence[tuple[Numpy, Numpy]], scales: Sequence[Numpy], span: tuple[int, int]
    ) -> Vectors:
        """The derivative of each sample along the axes of the bases, times ``scales``, for each block (N, P)."""
        program = Turned(self.sites, self.blocks, self.loss, False, self.sizes)
        further = self.staged([*self._sides(bases), *scales])
        parts = [found for _, found in self.run(program, samples, further, span=span)]
        return [np.concatenate(block) for block in zip(*parts, strict=True)]

    def turned_products(
        self, samples: Samples, bases: Sequence[tuple[Numpy, Numpy]], vectors: Vectors, span: tuple[int, int]
    ) -> Numpy:
        """Each sample's derivative times each vector along the axes of the bases, (K, N)."""
        program = TurnedProducts(self.sites, self.blocks, self.loss, False, self.sizes)
        parts = self.run(program, samples, self.staged([*self._sides(bases), *vectors]), span=span)
        return np.concatenate([found[0] for _, found in parts]).T.astype(np.float64)

    def similarity_factors(self, samples: Samples, span: tuple[int, int] | None = None) -> Vectors:
        """What :meth:`similarity` needs of some samples: for each block two factors, or the derivative."""
        program = Sides(self.sites, self.blocks, self.loss, False, self.sizes, self.by_factors)
        parts = [found for _, found in self.run(program, samples, per_sample=self._formed, span=span)]
        return [np.concatenate(side) for side in zip(*parts, strict=True)]

    @property
    def _formed(self) -> int:
        """The numbers of a sample's derivatives that are formed where others have factors."""
        return sum(n for n, by in zip(self.entries, self.by_factors, strict=True) if not by)

    def similarity(self, samples: Samples, factors: Vectors, span: tuple[int, int] | None = None) -> Numpy:
        """The products of each sample's derivative with those behind ``factors``, (K, N)."""
        return self._pairs(samples, factors, self.by_factors, self._formed, span)

    def harmonic_sums(self, samples: Samples, vectors: Vectors, damping: Numpy) -> Vectors:
        """The mean of derivative·(derivative·v)/(λ + |derivative|²), with λ of each block, for each vector (K, P)."""
        program = HarmonicSums(self.sites, self.blocks, self.loss, False, self.sizes)
        total = self._total(self.run(program, samples, self.staged([*vectors, damping])))
        return [part / len(samples) for part in total]

    def curvature(self, samples: Samples, vectors: Vectors, starts: Sequence[Start]) -> Vectors:
        """H·v for each vector, with H the mean over samples, and the mean over draws or the sum over outputs."""
        program = Curvature(self.sites, self.blocks, self.loss, True, self.sizes)
        further, total = self.staged(vectors), None
        for start in starts:
            found = self._total(self.run(program, samples, further, start))
            total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
        assert total is not None
        scale = 1.0 / (len(samples) * draws_of(starts))
        return [part * scale for part in total]

    def covariances(self, samples: Samples, starts: Sequence[Start]) -> list[tuple[Numpy, Numpy]]:
        """For each block the means of left·leftᵀ (G, L, L) and right·rightᵀ (G, R, R)."""
        program = Covariances(self.sites, self.blocks, self.loss, True)
        totals = [self._total(self.run(program, samples, (), start)) for start in starts]
        means = [sum(parts) / (len(samples) * draws_of(starts)) for parts in zip(*totals, strict=True)]
        lefts = [total / len(starts) * draws_of(starts) for total in means[::2]]
        return list(zip(lefts, means[1::2], strict=True))

    def _sides(self, bases: Sequence[tuple[Numpy, Numpy]]) -> list[Numpy]:
        pairs = zip(self.blocks, bases, strict=True)
        return [side for block, pair in pairs for side in (pair[1:] if block.rule == "embedding" else pair)]

    def squares(self, samples: Samples, bases: Sequence[tuple[Numpy, Numpy]], starts: Sequence[Start]) -> list[Numpy]:
        """The curvature along the axes of the bases, for each block (G, L, R)."""
        program = Squares(self.sites, self.blocks, self.loss, True, self.sizes)
        further = self.staged(self._sides(bases))
        totals = [self._total(self.run(program, samples, further, start)) for start in starts]
        return [sum(parts) / (len(samples) * draws_of(starts)) for parts in zip(*totals, strict=True)]

    def norms(
        self, samples: Samples, bases: Sequence[tuple[Numpy, Numpy]], scales: Sequence[Numpy],
        span: tuple[int, int] | None = None,
    ) -> Numpy:  # fmt: skip
        """The squared length of each sample's derivative, with ``scales`` along the axes of the bases, (N,)."""
        program = Norms(self.sites, self.blocks, self.loss, False, self.sizes)
        further = self.staged([*self._sides(bases), *scales])
        parts = self.run(program, samples, further, span=span)
        return np.concatenate([found[0] for _, found in parts]).astype(np.float64)

    def lengths(self, samples: Samples, start: Start | None = None, span: tuple[int, int] | None = None) -> Numpy:
        """The squared length of each sample's derivative in each block, (N, blocks)."""
        program = Lengths(self.sites, self.blocks, self.loss, start is not None)
        parts = self.run(program, samples, (), start, span=span)
        return np.concatenate([found[0] for _, found in parts]).astype(np.float64)

    def projections(
        self, samples: Samples, sides: Sequence[tuple[Numpy, Numpy]], span: tuple[int, int] | None = None
    ) -> Numpy:
        """The projected derivatives, (N, a²)."""
        program = Projections(self.sites, self.blocks, self.loss, False, self.sizes, sides[0][0].shape[-1])
        further = self.staged([side for pair in sides for side in pair])
        return np.concatenate([found[0] for _, found in self.run(program, samples, further, span=span)]).astype(
            np.float64
        )

    @staticmethod
    def _total(parts: Iterator[tuple[int, list[Numpy]]]) -> list[Numpy]:
        total: list[Numpy] = []
        for _, found in parts:
            wide = [array.astype(np.float64) for array in found]
            total = wide if not total else [a + b for a, b in zip(total, wide, strict=True)]
        return total

    def probe(self) -> Numpy:
        """Losses of a few random samples, which tell this model and loss from others but for rounding."""
        return self._random_losses(4)

    def _random_losses(self, size: int) -> Numpy:
        """The losses of four random samples, in batches of ``size``."""
        program, random = self.base, np.random.default_rng(0)
        arrays = []
        for holder in program.placeholders:
            shape = (4, *holder.shape)
            whole = np.zeros(shape, numpy_dtype(holder.dtype))
            arrays.append(random.standard_normal(shape).astype(whole.dtype) if whole.dtype.kind == "f" else whole)
        if self.loss.name == "binary_cross_entropy":
            arrays[-1] = 0 * arrays[-1]
        kernel, parts = self.kernel(program), []
        for start in range(0, 4, size):
            pairs = zip(arrays, program.placeholders, strict=True)
            with self.backend.neutral():
                given = [self.stage(array[start : start + size], holder.dtype) for array, holder in pairs]
                parts.append(kernel(*given, *self.weights.values())[0])
        return np.concatenate([np.asarray(self.backend.numpy(part), np.float64) for part in parts])

    def check_apart(self) -> None:
        """Refuse a loss, given as a function, that depends on how many samples are in a batch."""
        if not self._of_function:
            return
        whole, alone = self._random_losses(4), self._random_losses(1)
        if not np.allclose(whole, alone, rtol=1e-3, equal_nan=True):
            raise InputError(
                f"the loss of a sample depends on the samples of its batch: {whole[0]:.4g} of four, {alone[0]:.4g} "
                "alone. Do not divide by the number of samples"
            )

    # --- weights -----------------------------------------------------------------------------

    def _copied(self, weights: Mapping[Value, Any]) -> dict[Value, Array]:
        """The weights that kernels take, as they are now."""
        names = number_weights(self.sites.graph, weights)
        return {value: self.backend.read(self.backend.copied(weights[value])) for value in names}

    def at(self, state: Any) -> Runner:
        """The same programs with the weights of a checkpoint.

        Raises
        ------
        InputError: weights that it lacks, other shapes.
        """
        return self._with(self._copied(self.backend.weights_of(self.model, state, self.traced)))

    def with_weights(self, weights: Mapping[str, Numpy]) -> Runner:
        """The same programs with weights as :meth:`host_weights` gives them."""
        own = {value: self.stage(weights[str(value)], self.sites.graph.output(value).dtype) for value in self.weights}
        return self._with(own)

    def _with(self, weights: dict[Value, Array]) -> Runner:
        found = copy.copy(self)
        found.weights = weights
        return found

    def host_weights(self) -> dict[str, Numpy]:
        """All weights by the name of their value in the graph."""
        return {str(value): np.array(self.backend.numpy(weight)) for value, weight in self.weights.items()}

    def hash(self) -> str:
        """Of all weights."""
        found = hashlib.sha256()
        for name, array in sorted(self.host_weights().items()):
            found.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def draws_of(starts: Sequence[Start]) -> int:
    """What sums over starts are divided by: draws are averaged, outputs are added up."""
    return 1 if starts[0].output is not None else len(starts)
