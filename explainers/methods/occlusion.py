"""Methods that remove features and look at the output: forward only, for any callable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..counter import UInt64
from ..errors import InputError
from .base import Array, Method, Numpy, Shapes


@dataclass(frozen=True)
class FeatureAblation(Method):
    """s(x) − s(x with one feature at its baseline), at each element of the feature, undivided.

    ``groups``: an integer map that tells which elements form one feature, broadcastable to the
    sample's shape; for several inputs a tuple of maps, whose ids may be shared between inputs.
    Ids need not be contiguous. ``None``: each element by itself.
    """

    groups: Any = field(default=None, compare=False)

    name: ClassVar[str] = "feature_ablation"
    rules: ClassVar[str | None] = None
    baseline: ClassVar[str] = "point"
    single: ClassVar[bool] = False
    accumulators: ClassVar[int] = 0

    def _maps(self, shapes: Shapes) -> list[Numpy]:
        """One map of feature numbers 0…G−1 per input, each of the sample's shape."""
        if self.groups is None:
            sizes = [int(np.prod(shape)) for shape in shapes]
            starts = np.cumsum([0, *sizes[:-1]])
            return [np.arange(start, start + n).reshape(s) for start, n, s in zip(starts, sizes, shapes, strict=True)]
        given = self.groups if isinstance(self.groups, tuple) else (self.groups,)
        if len(given) != len(shapes):
            raise InputError(f"{len(given)} group maps for {len(shapes)} attributed inputs: give a tuple, one for each")
        maps = []
        for group, shape in zip(map(np.asarray, given), shapes, strict=True):
            if group.dtype.kind not in "iu":
                raise InputError(f"groups must hold integer feature ids; got dtype {group.dtype}")
            try:
                maps.append(np.broadcast_to(group, shape))
            except ValueError:
                raise InputError(
                    f"groups of shape {group.shape} do not broadcast to a sample of shape {shape}"
                ) from None
        flat = np.concatenate([m.ravel() for m in maps])
        numbers = np.unique(flat, return_inverse=True)[1]
        splits = np.split(numbers, np.cumsum([m.size for m in maps])[:-1])
        return [part.reshape(shape) for part, shape in zip(splits, shapes, strict=True)]

    def count(self, shapes: Shapes) -> int:
        return 2 + max(int(m.max(initial=-1)) for m in self._maps(shapes))

    def placeholders(self, shapes: Shapes) -> dict[str, tuple[str, tuple[int, ...], str]]:
        maps = {f"groups_{i}": ("", tuple(shape), "int64") for i, shape in enumerate(shapes)}
        return {"feature": ("rows", (), "int64"), **maps}

    def constants(self, shapes: Shapes) -> dict[str, Numpy]:
        return {f"groups_{i}": m.astype(np.int64) for i, m in enumerate(self._maps(shapes))}

    def rows(self, steps: Numpy, seeds: UInt64) -> dict[str, Numpy]:
        return {"feature": steps.astype(np.int64) - 1}  # row 0 of a sample is the sample itself

    def endpoint(self, which: str) -> dict[str, float | int]:
        return {"feature": -1}

    def expand(self, ops: Any, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        return [
            ops.where(ops.rows_equal(args["feature"], args[f"groups_{i}"]), base, value)
            for i, (value, base) in enumerate(zip(x, b, strict=True))
        ]

    def attribute(self, values: Numpy, shapes: Shapes) -> list[Numpy]:
        effect = values[:, :1] - values[:, 1:]  # (N, G, …)
        lead = np.moveaxis(effect, (0, 1), (-2, -1))  # (…, N, G)
        return [lead[..., m] for m in self._maps(shapes)]
