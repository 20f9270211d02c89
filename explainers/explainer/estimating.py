"""What an explanation of many samples will take, from a short measurement."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import InputError
from ..spec import Numpy, Signature
from .bind import Asked

if TYPE_CHECKING:
    from .api import Explainer

ROUNDS = 3  # calls that are measured, at least


class Estimate(NamedTuple):
    """What explaining ``samples`` takes. rows: evaluations of the model. seconds: on this machine, without reading and
    writing. bytes: of the attributions, uncompressed. dollars: at the given price an hour."""

    samples: int
    rows: int
    seconds: float
    bytes: int
    dollars: float

    def __str__(self) -> str:
        hours = f"{self.seconds / 3600:.1f} hours" if self.seconds > 7200 else f"{self.seconds:.1f} s"
        cost = f", {self.dollars:,.2f} dollars" if self.dollars else ""
        return f"{self.samples:,} samples: {self.rows:,} rows, {hours}, {self.bytes / 1e6:,.1f} MB{cost}"


def example(signature: Signature, count: int) -> dict[str, Numpy]:
    """Inputs by name: normal numbers, the same ones at each call, and zeros where a model takes none."""
    random = np.random.default_rng(0)
    return {
        spec.name: random.normal(size=(count, *spec.sample_shape)).astype("float32")
        if spec.floating
        else spec.blank(count)
        for spec in signature.inputs
    }


def estimate(explain: Explainer, samples: int, seconds: float, price: float) -> Estimate:
    if isinstance(samples, bool) or not isinstance(samples, (int, np.integer)) or samples < 1:
        raise InputError(f"samples must be a whole number ≥ 1; got {samples!r}")
    plan = explain._ready("estimate")
    packages, signature = plan.packages, plan.traced.signature
    if explain.method.generates:
        raise InputError(f"{explain.method.name!r} asks a generator how many rows a sample has: explain a few instead")
    count = max(1, packages.batch_size // max(1, packages.count))
    given = example(signature, count)
    shape = packages.output_shape
    target = np.zeros((count, *shape), np.float32) if shape and not explain.every_output else None
    if target is not None:
        target.reshape(count, -1)[:, 0] = 1
    request = explain._request((given,), {}, Asked(target, allow_nonfinite=True), samples=False)
    packages.run(request.call)  # compiles
    done, began = 0, time.perf_counter()
    while done < ROUNDS or time.perf_counter() - began < seconds:
        packages.run(request.call)
        done += 1
    each = (time.perf_counter() - began) / (done * count)
    kinds = zip(plan.specs, packages.host_dtypes, strict=True)
    size = sum(int(np.prod(spec.sample_shape)) * np.dtype(kind).itemsize for spec, kind in kinds)
    total = each * samples
    return Estimate(
        int(samples), request.rows // count * int(samples), total, size * int(samples), price * total / 3600
    )
