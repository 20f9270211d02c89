"""Perturbations by arbitrary Python code: inpainting, superpixels, edits of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from ..ops import Ops
from .base import Array, Numpy, Shapes, at_least
from .removal import Design, Placeholders, Removal, Units

__all__ = ["Perturbation"]

Generate = Callable[[Any, Any], Iterable[Any]]
Reduce = Callable[[Numpy, Any], Any]


@dataclass(frozen=True)
class Perturbation(Removal, data=False):
    """Attributions from perturbed samples that workers on the host generate while the model runs.

    Parameters
    ----------
    generate: ``generate(x, attribution)`` yields perturbed samples of the shape of ``x``, one sample without
        batch axis (a tuple of arrays for several attributed inputs); ``attribution`` is this sample's part of the
        call's ``attribution=``, or None. One worker generates all perturbations of a sample, in order.
    reduce: ``reduce(values, x)`` returns the attribution, of the shape of ``x``. ``values[0]`` is s(x), followed
        by s of the perturbed samples in order.
    workers: number of samples that are perturbed at once.
    processes: use processes in place of threads; ``generate`` must then be defined at the top level of a module.
    timeout: seconds that generating one perturbed sample may take.
    """

    generate: Generate
    reduce: Reduce
    workers: int = 2
    processes: bool = False
    timeout: float = 60.0

    name: ClassVar[str] = "perturbation"
    takes_lengths: ClassVar[bool] = False
    generates: ClassVar[bool] = True
    baseline: ClassVar[str] = "none"

    def __post_init__(self) -> None:
        for name in ("generate", "reduce"):
            if not callable(getattr(self, name)):
                raise InputError(f"{name} must be a function; got {getattr(self, name)!r}")
        at_least("workers", self.workers, 1)
        if not self.timeout > 0:
            raise InputError(f"timeout must be a number of seconds above 0; got {self.timeout!r}")

    def design(self, shapes: Shapes) -> Design:
        return _AsTheyAre(shapes)


class _AsTheyAre(Design):
    """A design whose rows are samples that have already been perturbed."""

    def placeholders(self) -> Placeholders:
        return {}

    def rows(self, units: Units, row: Numpy) -> dict[str, Numpy]:
        return {}

    def endpoint(self, which: str) -> dict[str, Any]:
        return {}

    def expand(self, ops: Ops, x: list[Array], b: list[Array], args: Mapping[str, Array]) -> list[Array]:
        return x

    def start(self, count: int, outputs: tuple[int, ...]) -> list[Numpy]:
        return []


def as_sample(given: Any, shapes: Shapes, what: str) -> list[Numpy]:
    """The return value of a user's function, as one array for each attributed input."""
    parts = list(given) if isinstance(given, tuple) else [given]
    arrays = [np.asarray(part) for part in parts]
    found = [array.shape for array in arrays]
    if found != [tuple(shape) for shape in shapes] or any(array.dtype.kind not in "fiub" for array in arrays):
        wanted = " and ".join(map(str, shapes))
        raise InputError(f"{what} has shape {' and '.join(map(str, found))}; a sample has {wanted}")
    return arrays
