"""Checks the arguments of a call: inputs become arrays, baselines become tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from .. import tables
from ..backend import Backend, on_host, owner
from ..errors import BaselineError, InputError
from ..methods import METHODS, Method
from ..methods.groups import SampleGroups, whole_numbers
from ..spec import (
    STRING,
    Array,
    Baseline,
    Numpy,
    Signature,
    TensorSpec,
    check_range,
    is_mask,
    resolve_baseline,
    row_name,
)
from .plan import Plan

RECENT = 4  # kinds of inputs that are remembered


def split(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs given as one value, split into (positional, by name)."""
    if inputs is None:
        return (), {}
    if isinstance(inputs, dict):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple) else (inputs,)), {}


@lru_cache(maxsize=256)
def dtype_name(dtype: Any) -> str:
    """``float32`` for numpy's, torch's or TensorFlow's."""
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    return str(name).removeprefix("torch.")


def checked_size(batch_size: Any, otherwise: str = "") -> None:
    if batch_size is not None and (not isinstance(batch_size, (int, np.integer)) or batch_size < 1):
        raise InputError(f"batch_size must be a whole number ≥ 1{otherwise}; got {batch_size!r}")


@dataclass(slots=True)
class Asked:
    """The arguments of a call besides its inputs; see :meth:`.Explainer.__call__`."""

    target: Any = None
    baseline: Any = None
    seed: Any = None
    batch_size: int | None = None
    progress: bool | Callable[[int, int], None] = False
    allow_nonfinite: bool = False
    attribution: Any = None
    groups: Any = None

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> tuple[Asked, dict[str, Any]]:
        """The arguments among keywords; also returns the other keywords, which name inputs."""
        own = {name: arguments.pop(name) for name in cls.__dataclass_fields__ if name in arguments}
        return cls(**own), arguments


@dataclass(slots=True)
class Inputs:
    """A call's inputs in the signature's order, as the caller passed them and as arrays, with the plan for them.

    ``count``: of the samples. ``by_name``: whether they were given by name, as results are then.
    """

    plan: Plan
    given: list[Any]
    arrays: list[Array]
    count: int
    by_name: bool


@dataclass(slots=True)
class _Kind:
    """The types, dtypes and shapes of inputs, and the plan for them."""

    of: Any = None
    plan: Plan | None = None


class KnownInputs:
    """What was decided for the inputs of recent calls, for later ones with inputs of the same types, dtypes and shapes.

    Only of arrays that are taken as they are, and whose checks depend on nothing else. What depends on their values,
    memory, device or history is checked at each call: finite numbers and ids, strides, derivatives.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.forget()

    def forget(self) -> None:
        self._recent = (_Kind(),) * RECENT  # the last one first; replaced as a whole, as threads share it

    def inputs(self, args: Sequence[Any]) -> Inputs | None:
        """The inputs ``args``; None if they are of another kind."""
        try:
            given = _kind(args)
        except AttributeError:  # no arrays
            return None
        for known in self._recent:
            if known.plan is not None and known.of == given:
                return Inputs(known.plan, list(args), list(args), int(args[0].shape[0]), False)
        return None

    def add(self, args: Sequence[Any], found: Inputs) -> None:
        """Remember the decisions for ``args`` where these may be remembered."""
        same = len(args) == len(found.arrays) and all(a is b for a, b in zip(args, found.arrays, strict=True))
        specs = found.plan.traced.signature.inputs
        if same and not found.by_name and all(map(self._decided, args, specs)):
            self._recent = (_Kind(_kind(args), found.plan), *self._recent[:-1])

    def _decided(self, array: Any, spec: TensorSpec) -> bool:
        """Whether all checks of ``array`` depend on its type, dtype and shape alone."""
        plain = type(array) is np.ndarray or (self._backend.owns(array) and not isinstance(array, np.ndarray))
        return plain and not spec.words and (spec.floating or dtype_name(array.dtype) == spec.dtype != STRING)


def _kind(args: Sequence[Any]) -> Any:
    return tuple([(type(array), array.dtype, array.shape) for array in args])


def arrays(backend: Backend, signature: Signature, bound: Sequence[Any]) -> tuple[list[Array], int]:
    """The inputs as numpy or as the backend's own arrays, and the number of samples."""
    found = [_array(backend, value, spec) for value, spec in zip(bound, signature.inputs, strict=True)]
    count = int(found[0].shape[0])
    for array, spec in zip(found, signature.inputs, strict=True):
        if array.shape[0] != count:
            raise InputError(f"input {spec.name!r} has {array.shape[0]} samples, the first input {count}")
    return found, count


def check_ids(backend: Backend, plan: Plan, found: Sequence[Array]) -> None:
    """Raise InputError for ids outside the model's table: a framework may silently use another row."""
    for place, size in plan.table_sizes.items():
        _check_ids(on_host(backend, found[place]), size, f"input {plan.traced.signature.inputs[place].name!r}")


def _check_ids(ids: Numpy, size: int, what: str) -> None:
    if ids.size and not (ids.min() >= 0 and ids.max() < size):
        wrong = tuple(map(int, np.argwhere((ids < 0) | (ids >= size))[0]))
        raise InputError(
            f"{what} holds the id {ids[wrong]} at {wrong}; the model's table has {size} entries, 0 … {size - 1}"
        )


def with_groups(plan: Plan, method: Method) -> Plan:
    """The plan for a call that brings groups of its own."""
    if not method.takes_groups:
        known = ", ".join(repr(name) for name, kind in METHODS.items() if kind.takes_groups)
        raise InputError(f"method {method.name!r} has no groups of features at a call; these have: {known}")
    if method.has_groups:
        raise InputError(
            "the explainer was compiled with groups for all samples, and the call brings others: compile it with a "
            f"method without groups, such as {method.name!r}, to give them at each call"
        )
    packages = plan.packages.by_elements()
    return plan if packages is plan.packages else replace(plan, packages=packages)


def groups(plan: Plan, given: Any, count: int) -> SampleGroups:
    """The groups of a call, checked: one array of ids for each attributed value."""
    found = sample_groups(plan, given, count)
    for number, first in zip(*np.unique(found.counts, return_index=True), strict=True):
        try:
            plan.packages.design(found.part(first, first + 1))
        except InputError as error:
            raise InputError(f"{row_name(int(first), count)} has {number} groups: {error}") from error
    return found


def sample_groups(plan: Plan, given: Any, count: int) -> SampleGroups:
    """A map of feature ids for each of ``count`` samples, one array (N, …) for each attributed value."""
    given = tables.aligned(given, plan.specs, "groups")
    names = [spec.name for spec in plan.specs]
    if isinstance(given, dict):
        if set(given) != set(names):
            raise InputError(f"groups for {sorted(given)}; the attributed values are {names}")
        given = tuple(given[name] for name in names)
    parts = given if isinstance(given, tuple) else (given,)
    if len(parts) != len(names):
        raise InputError(f"{len(parts)} group maps for {len(names)} attributed values: give a tuple, one for each")
    ids = [_group_ids(part, spec, count) for part, spec in zip(parts, plan.specs, strict=True)]
    return SampleGroups.of(ids, plan.packages.shapes)


def _group_ids(given: Any, spec: TensorSpec, count: int) -> Numpy:
    what = f"groups of {spec.name!r}"
    if isinstance(given, list) and len({np.shape(part) for part in given}) > 1:
        raise InputError(f"{what} differ in shape from sample to sample; give one array, padded like the samples")
    ids = to_numpy(given, what)
    whole_numbers(ids)
    shape = spec.sample_shape
    fits = ids.ndim == 1 + len(shape) and all(n in (1, size) for n, size in zip(ids.shape[1:], shape, strict=True))
    if not fits or ids.shape[0] not in (1, count):
        wanted = ", ".join(["N", *map(str, shape)])
        raise InputError(
            f"{what} have the shape {ids.shape}; for {count} samples they need ({wanted}) with N = {count}, or 1 for "
            "an axis along which the groups are the same"
        )
    return ids if len(ids) == count else np.repeat(ids, count, axis=0)


def attribution(plan: Plan, method: Method, given: Any, count: int) -> list[Numpy]:
    """The ``attribution`` that a Perturbation's generator gets, checked."""
    if not method.generates:
        raise InputError(f"attribution= is only for the method Perturbation; this is {method.name!r}")
    given = tables.aligned(given if isinstance(given, tuple) else (given,), plan.specs, "attribution")
    parts = [to_numpy(part, "attribution") for part in given]
    wanted = [(count, *spec.sample_shape) for spec in plan.specs]
    if [part.shape for part in parts] != wanted:
        raise InputError(f"attribution has shape {[p.shape for p in parts]}; the attributed inputs have {wanted}")
    return parts


def _array(backend: Backend, value: Any, spec: TensorSpec) -> Array:
    """An input as numpy or as the backend's own array, its kind and shape checked."""
    if spec.words or type(value) is not np.ndarray:
        if tables.is_table(value):
            value = tables.array(value, spec, f"input {spec.name!r}")
        elif spec.words:
            raise _no_table(value, spec)
        tables.refuse(value, f"input {spec.name!r}")
    own = isinstance(value, np.ndarray) or backend.owns(value)
    words = spec.dtype == STRING
    array = value if own else _words(value) if words else to_numpy(value, f"input {spec.name!r}")
    dtype = dtype_name(array.dtype)
    floating = dtype.startswith(("float", "bfloat"))
    fits = floating == spec.floating and (floating or dtype.startswith(("int", "uint", "bool")))
    if not (_of_words(array) if words else fits):
        advice = f"convert it with .astype({spec.dtype!r})" if spec.floating else f"give {spec.dtype}"
        raise InputError(f"input {spec.name!r} has dtype {dtype}, the model takes {spec.dtype}: {advice}")
    shape = tuple(array.shape)
    if shape[1:] != spec.sample_shape or not shape:
        hint = " A batch axis is missing: x[None]." if shape == spec.sample_shape else ""
        raise InputError(f"input {spec.name!r} has shape {shape}, the model takes {('N', *spec.sample_shape)}.{hint}")
    if not (floating or words) and dtype != spec.dtype and not np.can_cast(dtype, spec.dtype):
        check_range(on_host(backend, array), spec.dtype, f"input {spec.name!r}")
    return array


def _no_table(value: Any, spec: TensorSpec) -> InputError:
    columns = f" with the columns {tables.listed(spec.columns)}" if spec.columns else ""
    return InputError(
        f"input {spec.name!r} is a {type(value).__name__}, and the explainer was compiled for a table in which columns "
        f"hold no numbers, such as words: give a table{columns}"
    )


def _words(value: Any) -> Numpy:
    home = owner(value)
    return home.numpy(value) if home is not None else np.asarray(value)


def _of_words(array: Array) -> bool:
    if not isinstance(array, np.ndarray):
        return dtype_name(array.dtype) == STRING
    return array.dtype.kind in "US" or (
        array.dtype.kind == "O" and all(isinstance(w, (str, bytes)) for w in array.flat)
    )


def to_numpy(value: Any, what: str) -> Numpy:
    tables.refuse(value, what)
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


def _baseline_array(value: Any) -> Numpy:
    """A baseline of numbers or of words as numpy."""
    kind: Any = type(value)
    if kind in (str, bytes, list) or getattr(getattr(value, "dtype", None), "kind", "") in "USO" or owner(value):
        found = _words(value)
        if found.size and _of_words(found):
            return found.astype(object)
    return to_numpy(value, "baseline")


def plain(target: Any) -> Any:
    if target is None or isinstance(target, (int, str)):
        return target
    tables.refuse(target, "target")
    home = owner(target)
    return home.numpy(target) if home else target


def baseline(
    plan: Plan, method: Method, default: Any, given: Any, count: int, bound: list[Any], check: bool = True
) -> Baseline:
    fixed = given is None
    if fixed:
        if 0 in plan.fixed:
            return plan.fixed[0]
        given = default
    specs = [spec for spec, _ in plan.moved]
    given = tables.aligned(given, specs)

    def batch() -> Any:
        parts = [bound[place] for _, place in plan.moved if place is not None] or bound
        return parts[0] if len(parts) == 1 else tuple(parts)

    resolved = resolve_baseline(given, specs, count, batch, _baseline_array, check)
    if resolved.per_sample and method.takes_sets and not callable(given):
        raise BaselineError(
            f"method {method.name!r} takes one baseline for each sample and a set of references for all, and an array "
            f"of {count} rows for {count} samples may be either. Say which: References(array) for the set, or "
            "References(array[:, None], per_sample=True), or a function of the batch that returns it, for one each."
        )
    for table, (spec, place) in zip(resolved.tables, plan.moved, strict=True):
        if place in plan.table_sizes:
            _check_ids(table, plan.table_sizes[place], f"the baseline of {spec.name!r}")
    if resolved.distribution and not method.takes_sets:
        raise BaselineError(
            f"method {method.name!r} takes one baseline for each sample, not References; "
            "'gradient_shap', 'deeplift_shap' and 'shapley_sampling' average over references"
        )
    if method.baseline == "references" and not resolved.distribution and not resolved.per_sample:
        resolved = replace(resolved, distribution=True)
    if resolved.per_sample and method.name == "deeplift_shap":
        raise BaselineError(
            "method 'deeplift_shap' takes References; for one baseline for each sample use 'deeplift', or give "
            "References(array[:, None], per_sample=True)"
        )
    finite = check or all(np.isfinite(table).all() for table in resolved.tables)  # callables: at each call
    for_all = not (callable(given) or resolved.per_sample or resolved.own)
    if fixed and finite and for_all:
        resolved = replace(resolved, fixed=True)
        plan.fixed[0] = resolved  # it is the same for every later call
    return resolved


def samples_of(value: Any, index: Any, count: int, sample_axes: int | None = None) -> Any:
    """The entries ``index`` (a slice or positions) of ``value`` if it has one entry for each of ``count`` samples.

    ``sample_axes``: number of axes of one entry; an array with that many axes applies to all samples.
    """
    if isinstance(value, list) and len(value) == count:
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.ndim == 0 or len(value) != count:
        return value
    if sample_axes is not None and value.ndim != sample_axes + 1:
        return value
    return value[index]


def targets_of(target: Any, index: Any, count: int, output_shape: tuple[int, ...]) -> Any:
    """:func:`samples_of` for a target; a mask for all samples is not sliced."""
    return target if is_mask(target, output_shape) else samples_of(target, index, count)
