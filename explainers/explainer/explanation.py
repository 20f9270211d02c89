"""The result of a call: attributions with the outputs they explain."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import tables
from ..backend import owner
from ..errors import InputError
from ..graph.coverage import Operation
from ..spec import Numpy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Importance(NamedTuple):
    """Means over samples and their standard errors."""

    mean: Any
    standard_error: Any


@dataclass(frozen=True)
class Explanation:
    """Attributions with the outputs, target and inputs that they explain.

    Attributes
    ----------
    attributions: as ``explain`` returns them.
    outputs: f(x), (N, …), numpy.
    baseline_outputs: f(b), (N, …), or None where the method has no baseline.
    target: the mask w, (N, …), or ``"all"``.
    completeness_gap: Σ attribution − (s(x) − s(b)), (N,), for methods that are complete, else None; elements of
        one group count once.
    standard_error: like ``attributions``, for sampled methods, else None.
    incomplete: the samples, (N,), whose attributions differ from the output's change by more than 1e-3 of it
        plus rounding; None if the method does not guarantee completeness.
    evaluations: rows of the model computed for each sample, (N,).
    method: the method's value.
    approximations: the operations without a rule that were passed by their derivative, because the method
        allowed that.
    given: the model's inputs by name, as passed by the caller, not copied.
    attributed: the names of the attributed inputs or layer values, in the order of ``attributions``.
    groups: the features of a call with ``groups``: for each attributed value the numbers 0 … G−1 of its elements'
        features, (N, …); else None.
    """

    attributions: Any
    outputs: Numpy
    baseline_outputs: Numpy | None
    target: Numpy | str
    completeness_gap: Numpy | None
    standard_error: Any
    evaluations: Numpy
    method: Any
    approximations: tuple[Operation, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict, repr=False)
    attributed: tuple[str, ...] = ()
    incomplete: Numpy | None = None
    groups: tuple[Numpy, ...] | None = None

    @property
    def largest_gap(self) -> float:
        """The largest |completeness gap| relative to |s(x) − s(b)|; NaN where it is not defined."""
        if self.completeness_gap is None or self.baseline_outputs is None or isinstance(self.target, str):
            return float("nan")
        axes = tuple(range(1, self.outputs.ndim))
        change = ((self.outputs - self.baseline_outputs) * self.target).sum(axis=axes)
        return float(np.max(np.abs(self.completeness_gap) / np.maximum(np.abs(change), 1e-3), initial=0.0))

    @property
    def inputs(self) -> dict[str, Numpy]:
        """The model's inputs by name, as numpy; without copying where possible.

        A table with columns that hold no numbers becomes an array of objects.
        """
        return {name: on_host(array) for name, array in self.given.items()}

    def parts(self, of: str = "attributions") -> dict[str, Numpy]:
        """The attributions, or the ``"standard_error"``, as numpy, by the name of the attributed value."""
        found = getattr(self, of)
        if isinstance(found, Mapping):
            return {str(name): on_host(array) for name, array in found.items()}
        arrays = found if isinstance(found, tuple) else () if found is None else (found,)
        names = self.attributed or tuple(f"input_{i}" if len(arrays) > 1 else "input" for i in range(len(arrays)))
        return {name: on_host(array) for name, array in zip(names, arrays, strict=bool(arrays))}

    def importance(self, absolute: bool = False) -> Importance:
        """The global importance of each feature: the mean over samples, with its standard error from their spread.

        ``absolute``: of the attributions' absolute values (Lundberg and Lee 2017). Each field is an array of a sample's
        shape, or a dict of them by name for several attributed values; for target ``"all"`` output axes lead.

        Raises
        ------
        InputError: there are no samples.
        """
        means, errors = {}, {}
        for name, array in self.parts().items():
            lead = self.outputs.ndim - 1 if isinstance(self.target, str) else 0
            values = np.abs(array) if absolute else array
            count = values.shape[lead]
            if not count:
                raise InputError("importance is a mean over samples, and there are none")
            means[name] = values.mean(axis=lead, dtype=np.float64)
            errors[name] = np.full(means[name].shape, np.nan)
            if count > 1:
                errors[name] = values.std(axis=lead, ddof=1, dtype=np.float64) / np.sqrt(count)
        if len(means) == 1:
            return Importance(*means.values(), *errors.values())
        return Importance(means, errors)

    def plot(self, kind: str = "auto", **view: Any) -> Figure:
        """A picture of the attributions: a matplotlib Figure, which is not registered with pyplot.

        ``kind``: ``"image"``, ``"logo"``, ``"tokens"``, ``"bars"``, ``"waterfall"``, ``"curves"``, or ``"auto"``,
        which goes by the shape of a sample and by its values:

        - one number a token of an integer input (``per_token``): tokens;
        - one-hot rows over 4 (DNA) or 20 (protein) letters, or as many as ``names`` has: logo;
        - one axis: bars where it has names or fewer than 128 features, else curves;
        - two axes: curves where one is at least four times as long as the other, else image;
        - three axes: image.

        ``view``: what is shown, the fields of :class:`explainers.plots.View`: ``samples``, ``input``, ``output``,
        ``names``, ``classes``, ``channels``, ``top``, ``allow_nonfinite``.

        Raises
        ------
        InputError: the kind cannot show these values. UnknownNameError. NonFiniteError. BackendMissing: no matplotlib.
        """
        from .. import plots

        return plots.plot(self, kind, **view)

    def to_html(self, path: str | os.PathLike[str] | None = None, *, kind: str = "auto", **view: Any) -> str:
        """A self-contained HTML page: pictures, outputs, gaps and evaluations of each sample.

        Arguments and errors as for :meth:`plot`. Returns the page; ``path``: a file to write it to as well.
        """
        from .. import plots

        return plots.page(self, path, kind=kind, **view)

    def _repr_html_(self) -> str:
        from .. import plots

        return plots.notebook(self)


def on_host(array: Any) -> Numpy:
    """An array of any framework as numpy."""
    if tables.is_table(array):
        return tables.values(array, "the table")
    home = owner(array)
    return np.asarray(array) if home is None else home.numpy(array)
