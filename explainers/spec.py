"""Descriptions of what goes into a call: tensors, signatures, targets and baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from . import conditions, structure
from .errors import BaselineError, InputError, NonFiniteError, TargetError, shown
from .lengths import EXAMPLES, NAME, Length, named, sized
from .stored import Stored

# bytes per number, by dtype
FLOATING = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
COMPLEX = {"complex32": 4, "complex64": 8, "complex128": 16}
Array = Any
Numpy = npt.NDArray[Any]
SpecOf = Callable[[Any, str], "TensorSpec"]
STRING = "string"
SMALL = 2**13  # entries of an array that is checked as a whole first
LARGEST = 2**40  # size of an axis, and number of rows


@dataclass(frozen=True)
class TensorSpec(Stored):
    """Shape and dtype of one input, ``"string"`` for words. The first axis is the batch and is written ``None``.

    Other axes that vary from call to call, such as the length of a text, are ``None``, too, or names: axes of one name
    have one size in a call. The first ``None`` of each input is called ``"length"``, the next ``"length_2"`` …

    ``columns``: names of the last axis, where samples are rows of a table. ``words``: the code books of the columns
    that hold no numbers (:class:`explainers.code_books.Words`), filled by the library.

    >>> TensorSpec((None, 1, 28, 28), "float32", "image").sample_shape
    (1, 28, 28)
    """

    shape: tuple[int | str | None, ...]
    dtype: str = "float32"
    name: str = ""
    columns: tuple[str, ...] = field(default=(), repr=False)
    words: Any = field(default=None, repr=False, compare=False)

    later: ClassVar[frozenset[str]] = frozenset({"columns", "words"})

    def __post_init__(self) -> None:
        shape = tuple(self.shape)
        object.__setattr__(self, "columns", tuple(map(str, self.columns)))
        if self.columns and (shape[1:] != (len(self.columns),) or len(set(self.columns)) != len(self.columns)):
            raise InputError(
                f"{len(self.columns)} columns for samples of shape {shape[1:]}: give each of one axis a name of its own"
            )
        if not shape:
            raise InputError("a TensorSpec needs the batch as its first axis; got the shape ()")
        object.__setattr__(self, "shape", (None, *_sizes(shape[1:])))
        object.__setattr__(self, "dtype", _dtype_name(self.dtype))

    @cached_property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch axis."""
        return tuple(size for size in self.shape[1:] if isinstance(size, int))

    @cached_property
    def floating(self) -> bool:
        return self.dtype in FLOATING

    @cached_property
    def host_dtype(self) -> Any:
        """The numpy dtype that holds its numbers."""
        return "float32" if self.dtype == "bfloat16" else object if self.dtype == STRING else self.dtype

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether ``shape`` may be that of a sample; axes that vary may have any size."""
        pairs = zip(shape, self.sample_shape, strict=False)
        return len(shape) == len(self.sample_shape) and all(isinstance(s, Length) or n == s for n, s in pairs)

    @property
    def declared(self) -> list[int]:
        """The shape with −1 for the batch and the axes that vary, as protocols write it."""
        return [-1, *(-1 if isinstance(size, Length) else size for size in self.sample_shape)]

    def at(self, sizes: Mapping[str, int]) -> TensorSpec:
        """The spec for a call with these sizes of the axes that vary."""
        return replace(self, shape=(None, *sized(self.sample_shape, sizes)))

    def blank(self, count: int) -> Numpy:
        """``count`` samples of zeros, or of empty words."""
        return np.full((count, *self.sample_shape), "" if self.dtype == STRING else 0, self.host_dtype)

    def __str__(self) -> str:
        inner = ", ".join(["batch", *map(str, self.sample_shape)])
        return f"{self.name or 'input'}: {self.dtype}[{inner}]"


def _sizes(given: Sequence[Any]) -> Iterator[int]:
    """The sizes of axes; a name, or None, is one that varies."""
    unnamed = 0
    for size in given:
        unnamed += size is None
        name = (NAME if unnamed == 1 else f"{NAME}_{unnamed}") if size is None else size
        if isinstance(name, str):
            yield Length(name, EXAMPLES[0])
            continue
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not 0 <= size <= LARGEST:
            raise InputError(f"a size is a whole number from 0 to 2**40, a name, or None; got {size!r} in {given}")
        yield size if isinstance(size, int) else int(size)


def _dtype_name(dtype: Any) -> str:
    if dtype in ("bfloat16", STRING):
        return str(dtype)
    found = np.dtype(dtype)
    return STRING if found.kind in "USO" else str(found)


@dataclass(frozen=True)
class Signature(Stored):
    """The model's inputs in order; those from number ``positional`` on are passed by keyword.

    ``arguments``: name and form (:mod:`explainers.structure`) of each argument, which ``positional`` counts then;
    empty where each is one array. ``conditions``: what holds for the sizes of axes that vary, ``size_0``, ``size_1`` …
    in their order, on the branches of the model that were traced.
    """

    inputs: tuple[TensorSpec, ...]
    positional: int
    arguments: tuple[tuple[str, Any], ...] = ()
    conditions: tuple[str, ...] = ()

    later: ClassVar[frozenset[str]] = frozenset({"arguments", "conditions"})

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.inputs]
        if len(set(names)) != len(names):
            raise InputError(f"input names must differ; got {names}")

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any], positional: Sequence[str], spec: SpecOf) -> Signature:
        """From examples: arrays or TensorSpecs, or arguments that hold them. ``positional``: the names of ``args``.

        ``spec``: the TensorSpec of an array and its name.
        """
        leaves: list[tuple[str, Any]] = []
        given = [*zip(positional, args, strict=True), *kwargs.items()]
        forms = tuple((name, structure.form(value, name, leaves)) for name, value in given)
        if given and not leaves:
            raise InputError(f"no argument holds an array with a batch axis; got {dict(given)}")
        specs = tuple(spec(value, name) for name, value in leaves)
        flat = [form for _, form in forms] == list(range(len(specs)))
        return cls(specs, len(args), () if flat else forms)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.inputs)

    @cached_property
    def lengths(self) -> dict[str, Length]:
        """The axes that vary from call to call, by name."""
        return {name: size for spec in self.inputs for name, size in named(spec.sample_shape).items()}

    def at(self, sizes: Mapping[str, int]) -> Signature:
        """The signature for a call with these sizes of the axes that vary."""
        return replace(self, inputs=tuple(spec.at(sizes) for spec in self.inputs))

    def sizes(self, arrays: Sequence[Any]) -> dict[str, int]:
        """The sizes of the axes that vary, from a call's arrays in the signature's order.

        Raises
        ------
        InputError: axes of one name differ, or the model does not take this size.
        """
        found: dict[str, tuple[int, str]] = {}
        for spec, array in zip(self.inputs, arrays, strict=True) if self.lengths else ():
            shape = tuple(getattr(array, "shape", None) or np.shape(array))
            if len(shape) != len(spec.shape):
                raise InputError(f"input {spec.name!r} has shape {shape}; the model takes {spec}")
            for given, size in zip(shape[1:], spec.sample_shape, strict=True):
                if not isinstance(size, Length):
                    continue
                known, first = found.setdefault(size.name, (given, spec.name))
                if given != known:
                    raise InputError(
                        f"the axis {size.name!r} has the size {known} in input {first!r} and {given} in {spec.name!r}"
                    )
                if not size.low <= given <= size.high:
                    allowed = f"{size.low} or more" if size.high == float("inf") else f"{size.low} to {size.high:g}"
                    raise InputError(
                        f"input {spec.name!r} has the shape {shape}; the trace holds for {size.name!r} of {allowed}: "
                        "the model has no more places, or takes another branch beyond. Compile an explainer with the "
                        "size itself in inputs= to see which"
                    )
        return {name: size for name, (size, _) in found.items()}

    def unmet(self, sizes: Mapping[str, int]) -> str | None:
        """The first condition that does not hold for these sizes; None if the trace holds for them."""
        values = {f"size_{place}": sizes[name] for place, name in enumerate(self.lengths)}
        return next((text for text in self.conditions if not conditions.holds(text, values)), None)

    def check(self, sizes: Mapping[str, int]) -> None:
        """Raise InputError for sizes with which the model takes other branches than those that were traced."""
        condition = self.unmet(sizes)
        if condition is not None:
            given = ", ".join(f"{name} {size}" for name, size in sizes.items())
            for place, name in enumerate(self.lengths):
                condition = condition.replace(f"size_{place}", name)
            raise InputError(
                f"with {given} the model takes another branch than the one that was traced, where {condition}. "
                "Compile an explainer with these sizes in inputs="
            )

    @cached_property
    def forms(self) -> dict[str, Any]:
        """The form of each argument, by name."""
        return dict(self.arguments) or {name: place for place, name in enumerate(self.names)}

    @cached_property
    def fixed(self) -> frozenset[str]:
        """The arguments without an array."""
        return frozenset(name for name, form in self.arguments if structure.fixed(form))

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The arrays of the arguments, in the order of the signature.

        Raises
        ------
        InputError: an input is unknown or missing, or an argument has another form or fixed value.
        """
        alone = not kwargs and len(args) == len(self.inputs)
        if alone and (not self.arguments or all(hasattr(arg, "shape") for arg in args)):
            return list(args)  # the arrays, in their order
        given_arguments = dict(zip(self.forms, args, strict=False))
        clash = sorted(given_arguments.keys() & kwargs.keys())
        unknown_names = sorted(kwargs.keys() - self.forms.keys() - set(self.names))
        given_arguments.update(kwargs)
        array_by_place = {
            place: given_arguments[name] for place, name in enumerate(self.names) if name in given_arguments
        }
        for name in self.forms.keys() & given_arguments.keys():
            array_by_place.update(structure.placed(self.forms[name], given_arguments[name], name))
        missing_names = [name for place, name in enumerate(self.names) if place not in array_by_place]
        if len(args) > len(self.forms) or clash or unknown_names or missing_names:
            problem = (
                f"{len(args)} positional inputs"
                if len(args) > len(self.forms)
                else f"{clash} twice"
                if clash
                else f"unknown inputs {unknown_names}"
                if unknown_names
                else f"no value for {missing_names}"
            )
            flag = any(isinstance(kwargs[name], (bool, str, type(None))) for name in unknown_names)
            advice = " A flag is fixed when the model is traced: give it with inputs= to compile." if flag else ""
            raise InputError(f"got {problem}; the model takes ({self}).{advice}")
        return [array_by_place[place] for place in range(len(self.inputs))]

    def call(self, arrays: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The model's arguments, positional and by keyword, from its inputs in order."""
        arguments = [(name, structure.formed(form, arrays)) for name, form in self.forms.items()]
        return [value for _, value in arguments[: self.positional]], dict(arguments[self.positional :])

    def __str__(self) -> str:
        flags = [f"{name}={form.value!r}" for name, form in self.arguments if isinstance(form, structure.Fixed)]
        return ", ".join([*map(str, self.inputs), *flags])


@dataclass(frozen=True, eq=False)
class References(Stored):
    """A set of B baselines: for methods that average over a distribution.

    ``array``: shape (B, \\*sample shape), the same set for all samples. ``per_sample``: shape (N, B, \\*sample shape),
    a set of its own for each of a call's samples, such as dinucleotide shuffles of it. For several inputs a tuple or
    dict of these. A table is a set of its rows; with ``per_sample``, each sample's set is the row at its place.
    """

    array: Any
    per_sample: bool = False

    later: ClassVar[frozenset[str]] = frozenset({"per_sample"})


@dataclass(frozen=True)
class BatchReferences(Stored):
    """A baseline: the samples of each call, as :class:`References` for all of them."""

    def __call__(self, batch: Any) -> Any:
        parts = batch if isinstance(batch, tuple) else (batch,)
        return References(batch) if len(parts[0]) else 0.0


def numpy_dtype(dtype: str) -> str:
    """The numpy dtype that holds ``dtype``."""
    return "float32" if dtype in ("bfloat16", "float16") else dtype


def row_name(position: int, count: int) -> str:
    return f"sample {position} of {count}"


def all_finite(array: Numpy) -> bool:
    """Whether no entry is NaN or infinity.

    A sum of squares is finite only if each entry is, and takes a third of the time that the entries take one by one;
    where it is not, large entries may have made it overflow.
    """
    if array.size <= SMALL and array.dtype.kind == "f" and math.isfinite(np.vdot(array, array)):
        return True
    return bool(np.isfinite(array).all())


def check_finite(array: Numpy, what: str, first: int = 0, count: int | None = None) -> None:
    """Raise NonFiniteError, naming the first sample of ``array`` that has NaN or infinity.

    ``first``: the number of its first sample among the call's ``count``.
    """
    if array.dtype.kind != "f" or all_finite(array):
        return
    rows = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    kind = "NaN" if np.isnan(array[rows[0]]).any() else "infinity"
    raise NonFiniteError(
        f"{what}: {kind} in {row_name(first + int(rows[0]), count or len(array))}"
        f"{f' and {len(rows) - 1} more' if len(rows) > 1 else ''}. "
        "Clean it, or pass allow_nonfinite=True to let it through."
    )


# --- targets ---------------------------------------------------------------------------------


def _target_forms(shape: tuple[int, ...], count: int) -> str:
    if not shape:
        return f"The output is one number for each of {count} samples: leave target out."
    index = "an int" if len(shape) == 1 else f"a tuple of {len(shape)} ints"
    return (
        f"The output has shape {shape} for each of {count} samples. Give {index} (the same for all), "
        f"a list of {count} of them (one per sample), a mask of shape {shape} or {(count, *shape)}, or 'max'."
    )


@dataclass(frozen=True)
class Target:
    """A target, checked against the output's shape, that can make masks for any range of samples.

    ``kind``: ``"index"`` (``data``: (1 or N, output axes) integers), ``"mask"`` (``data``: (1 or N,
    \\*shape) weights), ``"max"`` or ``"all"``.
    """

    kind: str
    shape: tuple[int, ...]
    data: Numpy | None = None

    def mask(self, start: int, stop: int, dtype: str) -> Numpy:
        """The weights w of s = Σ w·f(x) for samples start … stop−1, shape (stop−start, \\*shape)."""
        if self.kind in ("max", "all"):
            return np.zeros((stop - start, *self.shape), dtype)
        assert self.data is not None
        rows = self.data if len(self.data) == 1 else self.data[start:stop]
        if self.kind == "mask":
            return np.array(np.broadcast_to(rows, (stop - start, *self.shape)), dtype)
        mask = np.zeros((stop - start, *self.shape), dtype)
        if len(rows) == 1:
            mask[(slice(None), *rows[0].tolist())] = 1
        else:
            mask[(np.arange(stop - start), *rows.T)] = 1
        return mask


def largest(outputs: Numpy) -> Target:
    """The index target that ``"max"`` stands for, from the samples' outputs."""
    shape = outputs.shape[1:]
    flat = outputs.reshape(len(outputs), -1).argmax(axis=1)
    return Target("index", shape, np.stack(np.unravel_index(flat, shape), axis=1) if shape else flat[:, None][:, :0])


def resolve_target(target: Any, shape: tuple[int, ...], count: int, forward_only: bool = False) -> Target:
    """Check any form of target.

    Parameters
    ----------
    target: ``None`` (an output of one scalar), an int or tuple of ints, one of these per sample,
        a dense mask of real weights with or without the batch axis, ``"max"``, or ``"all"``
        (forward-only methods).
    shape: of one sample's output, without the batch axis.
    count: N, the number of samples.

    Raises
    ------
    TargetError: names the position, the given value, and the accepted forms.
    """
    if target is None:
        if int(np.prod(shape)) != 1:
            raise TargetError(f"no target given. {_target_forms(shape, count)}")
        return Target("mask", shape, np.ones((1, *shape), np.float32))
    if type(target) is int and len(shape) == 1 and 0 <= target < shape[0]:
        return _one_index(target, shape)
    if isinstance(target, str):
        if target == "all" and not forward_only:
            raise TargetError(
                "target='all' needs a forward-only method: a gradient method explains one scalar at a time. "
                + _target_forms(shape, count)
            )
        if target not in ("max", "all"):
            raise TargetError(f"unknown target {shown(target)}. {_target_forms(shape, count)}")
        return Target(target, shape)
    try:
        given = np.asarray(target)
    except ValueError as error:
        raise TargetError(f"target {target!r} is ragged. {_target_forms(shape, count)}") from error
    if given.dtype.kind in "fO" and not isinstance(target, np.ndarray) and _beyond(target):
        raise TargetError(f"target has an integer of more than 63 bits. {_target_forms(shape, count)}")
    if count == 0 and given.size == 0 and given.ndim:
        return Target("index", shape, np.zeros((0, len(shape)), np.int64))
    if isinstance(target, list) and target and all(isinstance(entry, tuple) for entry in target):
        return Target("index", shape, _indices(target, given, shape, count))
    if is_mask(given, shape):
        _check_no_indices(target, given, shape, count)
    if is_mask(given, shape) or is_mask(given, (count, *shape), len(shape)):
        if not np.isfinite(given).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(given))[0])
            raise TargetError(f"the target mask is not finite at {place}")
        return Target("mask", shape, given if given.ndim > len(shape) else given[None])
    return Target("index", shape, _indices(target, given, shape, count))


def _check_no_indices(target: Any, given: Numpy, shape: tuple[int, ...], count: int) -> None:
    """TargetError for an ambiguous target: floats that may be a mask for all samples or an index for each."""
    whole = given.dtype.kind != "b" and bool((given == np.floor(given)).all())
    if count < 2 or not whole or given.shape not in ((count,), (count, len(shape))):
        return
    indices = given.astype(np.int64)
    if indices.min() < 0 or (indices.reshape(count, -1) >= np.array(shape)).any():
        return
    listed = indices.tolist()
    said = f"integers {listed!r}" if indices.ndim == 1 else f"tuples {list(map(tuple, listed))!r}"
    raise TargetError(
        f"target {target!r} may be weights of the output, the same for all samples, or an index for each of "
        f"{count} samples, since the sizes are the same. Say which: the {said}, or a mask of shape {(count, *shape)}."
    )


def _beyond(target: Any) -> bool:
    """Whether there are integers too large for every integer dtype, which numpy would turn into floats."""
    if isinstance(target, (list, tuple)):
        return any(map(_beyond, target))
    return isinstance(target, int) and not -(2**63) <= target < 2**63


def is_mask(target: Any, shape: tuple[int, ...], axes: int | None = None) -> bool:
    """Whether ``target`` is an array or list of weights of this shape.

    ``axes``: number of axes of one output, by default those of ``shape``; with one axis, integers are indices.
    """
    if not isinstance(target, (list, np.ndarray)):
        return False
    try:
        array = np.asarray(target)
    except ValueError:  # ragged
        return False
    axes = len(shape) if axes is None else axes
    return axes > 0 and array.shape == shape and array.dtype.kind in ("fb" if axes == 1 else "fbiu")


@lru_cache(maxsize=4096)
def _one_index(target: int, shape: tuple[int, ...]) -> Target:
    return Target("index", shape, np.array([[target]]))


def _indices(target: Any, indices: Numpy, shape: tuple[int, ...], count: int) -> Numpy:
    """Integer indices of shape (N, output axes)."""
    if indices.dtype.kind not in "iu":
        detail = ""
        if indices.dtype.kind == "f" and indices.ndim and indices.size:
            broken = np.argwhere(~np.isfinite(indices) | (indices != np.round(indices)))
            if len(broken):
                place = tuple(int(i) for i in broken[0])
                detail = f" (position {place[0] if len(place) == 1 else place}: {indices[place]})"
        raise TargetError(
            f"target of dtype {indices.dtype} and shape {indices.shape} is neither integers nor a mask "
            f"of the output's shape{detail}. {_target_forms(shape, count)}"
        )
    one_for_all = indices.ndim == 0 or (isinstance(target, tuple) and indices.ndim == 1)
    if one_for_all:
        indices = indices.reshape(1, -1)
    elif indices.ndim == 1 and len(shape) == 1:
        indices = indices.reshape(-1, 1)
    if indices.ndim != 2 or indices.shape[1] != len(shape):
        raise TargetError(
            f"target of shape {np.shape(target)} does not index an output of {len(shape)} axes. "
            f"{_target_forms(shape, count)}"
        )
    if not one_for_all and len(indices) != count:
        raise TargetError(f"{len(indices)} targets for {count} samples. {_target_forms(shape, count)}")
    outside: Numpy = np.any((indices < 0) | (indices >= np.array(shape)), axis=1)
    if outside.any():
        position = int(np.argmax(outside))
        index = tuple(int(i) for i in indices[position])
        raise TargetError(
            f"target {index[0] if len(index) == 1 else index} at position {position} is out of range. "
            f"{_target_forms(shape, count)}"
        )
    return indices


# --- baselines -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """Baselines as a table, and which row of it each sample uses.

    ``tables``: one array (B, \\*sample shape) per attributed input.
    ``per_sample``: sample i uses row i (B = N); otherwise all use row 0, or, for
    ``distribution``, any of the B rows. ``own``: a distribution of B for each sample, tables
    (N, B, \\*sample shape). ``fixed``: the same object at every call. ``given``: the arrays that hold the codes of
    columns without numbers, which live as long as these.
    """

    tables: tuple[Array, ...]
    per_sample: bool = False

    distribution: bool = False
    fixed: bool = False
    own: bool = False
    given: Any = None

    def __len__(self) -> int:
        return int(self.tables[0].shape[1 if self.own else 0])


def resolve_baseline(
    baseline: Any,
    specs: Sequence[TensorSpec],
    count: int,
    batch: Callable[[], Any],
    convert: Callable[[Any], Numpy] = np.asarray,
    check: bool = True,
) -> Baseline:
    """Convert any form of baseline to one table of rows for each attributed input.

    ``specs``: of the attributed inputs. ``batch()``: the call's inputs, for a callable baseline.
    ``convert``: any array type to numpy. ``check``: reject NaN and infinity.
    """
    if callable(baseline) and not isinstance(baseline, References) and not hasattr(baseline, "shape"):
        baseline = baseline(batch())
    distribution = isinstance(baseline, References)
    own = distribution and baseline.per_sample
    given = baseline.array if distribution else baseline
    parts = _per_input(given, specs)
    tables = [
        _baseline_table(part, spec, count, distribution, own, convert, check)
        for part, spec in zip(parts, specs, strict=True)
    ]
    if distribution:
        sizes = {table.shape[1 if own else 0] for table in tables}
        if len(sizes) != 1:
            raise BaselineError(f"the inputs have different numbers of references: {sorted(sizes)}")
        return Baseline(tuple(tables), distribution=True, own=own, given=given)
    per_sample = any(len(table) == count and count != 1 for table in tables)
    if per_sample:
        tables = [np.broadcast_to(t, (count, *t.shape[1:])) if len(t) != count else t for t in tables]
    return Baseline(tuple(tables), per_sample, given=given)


def _words(array: Numpy, spec: TensorSpec) -> Numpy:
    if array.dtype.kind != "O":
        raise BaselineError(
            f"the baseline of {spec} must be words, such as '' or one that the model does not know: give baseline="
        )
    return array


def _numbers(array: Numpy, spec: TensorSpec) -> Numpy:
    if array.dtype.kind not in "fiub":
        raise BaselineError(f"baseline for {spec} has dtype {array.dtype}; numbers are needed")
    return array if spec.floating else _whole_numbers(array, spec)


def _whole_numbers(array: Numpy, spec: TensorSpec) -> Numpy:
    """Check a baseline for an integer input: it must be whole numbers, and the default 0.0 is not a meaningful id."""
    if array.dtype.kind == "f" and spec.dtype not in ("uint8", "bool"):
        raise BaselineError(
            f"the baseline of {spec} must be whole numbers, such as the id of a mask or padding token: give baseline="
        )
    if array.dtype.kind == "f" and not (array == np.floor(array)).all():
        raise BaselineError(f"the baseline of {spec} must be whole numbers; got {array.reshape(-1)[:3]} …")
    check_range(array, spec.dtype, f"the baseline of input {spec.name!r}")
    return array


def check_range(array: Numpy, dtype: str, what: str) -> None:
    """Raise InputError, naming the first, for whole numbers outside the range of an integer dtype."""
    low, high = (0, 1) if dtype == "bool" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    wrong = np.argwhere((array < low) | (array > high))
    if len(wrong):
        place = tuple(int(i) for i in wrong[0])
        raise InputError(
            f"{what} holds {array[place]} at {place}; the model takes {dtype}, which ends at {low} and {high}"
        )


def _per_input(given: Any, specs: Sequence[TensorSpec]) -> list[Any]:
    if isinstance(given, dict):
        names = [spec.name for spec in specs]
        if set(given) != set(names):
            raise BaselineError(f"baselines for {shown(sorted(given))}; the attributed inputs are {names}")
        return [given[name] for name in names]
    if isinstance(given, tuple):
        if len(given) != len(specs):
            raise BaselineError(f"{len(given)} baselines for {len(specs)} attributed inputs")
        return list(given)
    if len(specs) > 1 and np.ndim(given) > 0:
        raise BaselineError(
            f"one baseline array for {len(specs)} attributed inputs: give a tuple or a dict, one for each of "
            f"{[spec.name for spec in specs]}"
        )
    return [given] * len(specs)


def _baseline_table(
    given: Any, spec: TensorSpec, count: int, distribution: bool, own: bool, convert: Callable[[Any], Numpy],
    check: bool,
) -> Numpy:  # fmt: skip
    shape = spec.sample_shape
    dtype = spec.dtype if spec.dtype == "float64" or not spec.floating else "float32"
    try:
        array = convert(given)
    except (TypeError, ValueError) as error:
        raise BaselineError(f"baseline for {spec} is not an array: {given!r}") from error
    array = _words(array, spec) if spec.dtype == STRING else _numbers(array, spec).astype(dtype, copy=False)
    if check and spec.floating and not np.isfinite(array).all():
        raise BaselineError(
            f"baseline for {spec} has NaN or infinity. Clean it, or pass allow_nonfinite=True if the model takes them."
        )
    if distribution:
        lead = array.shape[: array.ndim - len(shape)]
        fits = len(lead) == (2 if own else 1) and array.shape[len(lead) :] == shape and lead[-1] > 0
        if not fits or (own and lead[0] != count):
            wanted = (count, "B", *shape) if own else ("B", *shape)
            kind = "References(…, per_sample=True)" if own else "References"
            raise BaselineError(f"{kind} of shape {array.shape} for {spec}: expected {wanted} with B ≥ 1")
        return array
    if array.ndim == 0 or array.shape == shape:
        return np.ascontiguousarray(np.broadcast_to(array, (1, *shape)))
    if array.shape in ((count, *shape), (1, *shape)):
        return array
    raise BaselineError(
        f"baseline of shape {array.shape} for {spec}: give a number, one sample {shape}, "
        f"one per sample {(count, *shape)}, or References of shape {('B', *shape)}"
    )
