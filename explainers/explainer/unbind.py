"""Turning the chunks of a call into arrays of the inputs' shape, type and structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import tables
from ..backend import Backend, on_host, owner
from ..errors import NonFiniteError
from ..methods import Method
from ..run.call import Call, Chunk
from ..spec import Array, Numpy, all_finite, check_finite
from . import completeness
from .explanation import Explanation
from .plan import Plan


@dataclass(slots=True)
class Results:
    """Makes the return value of a call. ``bound``: the inputs as the caller passed them; ``by_name``: as a dict."""

    backend: Backend
    plan: Plan
    per_token: bool
    bound: list[Any]
    by_name: bool

    def attributions(self, call: Call, chunks: list[Chunk]) -> Any:
        """The attributions, in the structure of the inputs."""
        return self._structured(self._joined(call, chunks) if chunks else self._empty(call))

    def explanation(
        self, call: Call, chunks: list[Chunk], method: Method, approximate: Any, incomplete: Numpy | None
    ) -> Explanation:
        packages = self.plan.packages
        outputs = _concatenated([c.outputs for c in chunks], packages.output_shape)
        baselines = None
        if chunks and chunks[0].baseline_outputs is not None:
            baselines = _concatenated([c.baseline_outputs for c in chunks], packages.output_shape)
        mask: Numpy | str = "all" if call.target.kind == "all" else _mask(call, chunks)
        gap = None
        if method.adds_up and baselines is not None and not isinstance(mask, str):
            weights = method.weights(completeness.ON_HOST, mask.astype(np.float64))
            change = _scalar(outputs, weights) - _scalar(baselines, weights)
            gap = np.concatenate([self._total(call, chunk) for chunk in chunks]) - change
        errors = None
        if chunks and chunks[0].standard_errors[0] is not None:
            count = len(self.plan.wrt)
            joined = [self._whole([_present(c.standard_errors[i]) for c in chunks], i) for i in range(count)]
            errors = self._structured([self._finished(i, error) for i, error in enumerate(joined)])
        if chunks and chunks[0].evaluations is not None:
            rows = np.concatenate([_present(c.evaluations) for c in chunks])
        else:
            rows = np.full(len(call), packages.count if chunks else 0)
        names = self.plan.traced.signature.names
        return Explanation(
            self.attributions(call, chunks), outputs, baselines, mask, gap, errors, rows, method, approximate,
            given=dict(zip(names, self.bound, strict=True)), attributed=tuple(spec.name for spec in self.plan.specs),
            incomplete=incomplete, groups=call.groups.maps if call.groups else None,
        )  # fmt: skip

    def outputs(self, parts: list[Array], check: bool) -> Any:
        """f(x), of the type of the first input."""
        whole = parts[0] if len(parts) == 1 else np.concatenate([self.host(part) for part in parts])
        if check:
            self._check(whole, "the model's output")
        return self._like(whole, self.bound[0])

    # --- one array for each attributed value ---------------------------------------------------

    def _joined(self, call: Call, chunks: list[Chunk]) -> list[Any]:
        results = []
        check = call.check and not all(chunk.finite for chunk in chunks)
        for i, place in enumerate(self.plan.places):
            if len(chunks) == 1:
                array = chunks[0].attributions[i]
            else:
                array = self._whole([self.host(chunk.attributions[i]) for chunk in chunks], i)
            if isinstance(self.bound[place or 0], np.ndarray):
                array = self.host(array)
            if check:
                self._check(array, "the attribution", call.target.kind != "all")
            results.append(self._finished(i, array))
        return results

    def _whole(self, parts: list[Numpy], index: int) -> Numpy:
        """One field of the attributed value ``index`` for all samples; for ``"all"`` the outputs' axes lead."""
        return np.concatenate(parts, axis=parts[0].ndim - 1 - len(self.plan.specs[index].sample_shape))

    def _check(self, array: Array, what: str, by_sample: bool = True) -> None:
        if all_finite(array) if isinstance(array, np.ndarray) else self.backend.finite(array):
            return
        if by_sample:
            check_finite(self.host(array), f"{what} (the model's derivative or output is not finite there)")
        raise NonFiniteError(f"{what} is not finite; pass allow_nonfinite=True to let it through")

    def _finished(self, index: int, array: Any) -> Any:
        """``array`` converted to the type, dtype and device of the input that it belongs to."""
        if self.per_token:
            array = self.host(array).sum(-1)
        place = self.plan.places[index]
        given = self.bound[place or 0]
        if place is None or isinstance(given, np.ndarray) or self.backend.owns(given) or not tables.is_table(given):
            return self._like(array, given)
        return self.host(array) if self.per_token else tables.like(self.host(array), given, self.plan.specs[index])

    def _like(self, array: Any, given: Any) -> Any:
        if isinstance(given, np.ndarray):
            host = self.host(array)
            return host.astype(given.dtype, copy=False) if given.dtype.kind == "f" else host
        home = self.backend if self.backend.owns(given) else owner(given)
        if home is None:
            return self.host(array)
        return home.like(array if home is self.backend else self.host(array), given)

    def host(self, array: Array) -> Numpy:
        return on_host(self.backend, array)

    def _structured(self, results: list[Any]) -> Any:
        if self.by_name and all(place is not None for place in self.plan.places):
            return {spec.name: result for spec, result in zip(self.plan.specs, results, strict=True)}
        return results[0] if len(results) == 1 else tuple(results)

    def _empty(self, call: Call) -> list[Any]:
        specs = self.plan.specs
        lead = self.plan.packages.output_shape if call.target.kind == "all" else ()
        shapes = [(*lead, 0, *spec.sample_shape) for spec in specs]
        dtypes = [self.plan.packages.host_dtype(value) for value in self.plan.packages.program.wrt]
        arrays = [np.zeros(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        return [self._finished(i, array) for i, array in enumerate(arrays)]

    def _total(self, call: Call, chunk: Chunk) -> Numpy:
        """Σ attribution of each sample of the chunk."""
        if chunk.totals is not None:
            return chunk.totals
        parts = [self.host(array) for array in completeness.summed(self.plan.packages, call, chunk)]
        total: Numpy = np.sum([p.reshape(len(p), -1).sum(axis=1, dtype=np.float64) for p in parts], axis=0)
        return total


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
