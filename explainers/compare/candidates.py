"""The candidates of a comparison (a model with a method, a backend and an engine), and the question put to them."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import methods, tables
from ..errors import InputError
from ..explainer.api import Explainer
from ..explainer.bind import samples_of, targets_of, to_numpy
from ..methods import Method
from ..spec import Numpy, References, TensorSpec
from .model_names import check

PEERS = ("captum", "shap")


@dataclass(frozen=True, init=False)
class Candidate:
    """A model explained by a method on a backend and an engine, to be compared with others.

    model: a model that :meth:`Explainer.compile` accepts, or its name as ``module:name`` or ``file.py:name``.
    method: a name or a value of :mod:`explainers.methods`, or a method of another library:
    ``"captum:DeepLift"``, ``"shap:DeepExplainer"``. process: True runs the candidate in a separate process, for
    which the model must be a name or a path; None does so only where it is needed: for a ``.keras`` file unless
    Keras already runs here on that backend, and for ``module:name`` with a backend. options: keyword arguments of
    ``compile``, or of the other library's call.
    """

    model: Any
    method: str | Method
    backend: str | None = None
    engine: str = "auto"
    name: str | None = None
    process: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __init__(
        self, model: Any, method: str | Method, backend: str | None = None, engine: str = "auto",
        name: str | None = None, *, process: bool | None = None, **options: Any,
    ) -> None:  # fmt: skip
        fields = {
            "model": os.fspath(model) if isinstance(model, os.PathLike) else model, "method": method,
            "backend": backend, "engine": engine, "name": name, "process": process, "options": options,
        }  # fmt: skip
        for key, value in fields.items():
            object.__setattr__(self, key, value)
        if self.peer is None:
            methods.resolve(method)
        if isinstance(self.model, str):
            check(self.model)
        if process and not isinstance(self.model, str):
            raise InputError(
                f"a separate process needs a model that it can load: a .keras or .pt2 file, the folder of a "
                f"SavedModel, 'package.module:name' or 'file.py:name'; got {type(model).__name__}"
            )

    @property
    def peer(self) -> tuple[str, str] | None:
        """The other library's package and class, ``("captum", "DeepLift")``; None for a method of this library."""
        package, colon, kind = self.method.partition(":") if isinstance(self.method, str) else ("", "", "")
        return (package, kind) if colon and package in PEERS else None

    @property
    def keras_file(self) -> bool:
        return isinstance(self.model, str) and self.model.endswith(".keras")

    @property
    def is_module_name(self) -> bool:
        """Whether the model is given as ``module:name``."""
        return isinstance(self.model, str) and not check(self.model)

    @property
    def in_other_process(self) -> bool:
        """Whether it runs in another process."""
        if self.process is not None:
            return self.process
        if not self.keras_file:
            return self.is_module_name and self.backend is not None
        keras = sys.modules.get("keras")
        return keras is None or keras.backend.backend() != self.keras_backend

    @property
    def keras_backend(self) -> str:
        """The value of ``KERAS_BACKEND`` in a separate process."""
        return self.backend if self.backend in ("torch", "tensorflow") else "tensorflow"

    def __str__(self) -> str:
        where = "" if self.backend is None else f" on {self.backend}"
        engine = "" if self.engine == "auto" else f" with engine {self.engine}"
        return self.name or f"{self.method if isinstance(self.method, str) else short_name(self.method)}{where}{engine}"


AnyCandidate = Candidate | Explainer


def short_name(method: Method) -> str:
    """The method's name, with the parameters that differ from the defaults."""
    default = methods.METHODS.get(method.name)
    fields = [] if default is None or type(default) is not type(method) else dataclasses.fields(method)
    settings = [
        f"{f.name}={getattr(method, f.name)}"
        for f in fields
        if str(getattr(method, f.name)) != str(getattr(default, f.name))
    ]
    return method.name + (f"({', '.join(settings)})" if settings else "")


def collect_candidates(candidates: Any) -> list[tuple[str | None, AnyCandidate]]:
    """(name or None, candidate) pairs from a dict or a sequence; explainers are loaded from paths."""
    if isinstance(candidates, (Candidate, Explainer, str, os.PathLike)):
        candidates = [candidates]
    if not isinstance(candidates, (Mapping, Iterable)):
        raise InputError(f"candidates are a list or a dict by name; got {type(candidates).__name__}")
    pairs = list(candidates.items()) if isinstance(candidates, Mapping) else [(None, c) for c in candidates]
    if not pairs:
        raise InputError("no candidates given: there is nothing to compare")
    members = [(name, _candidate(value)) for name, value in pairs]
    names = [name or getattr(value, "name", None) for name, value in members]
    duplicates = sorted({name for name in names if name is not None and names.count(name) > 1})
    if duplicates:
        raise InputError(f"two candidates are called {duplicates[0]!r}; names must differ")
    return [(name, value) for name, (_, value) in zip(names, members, strict=True)]


def _candidate(value: Any) -> AnyCandidate:
    if isinstance(value, (Candidate, Explainer)):
        return value
    if isinstance(value, str) and value.partition(":")[0] in PEERS:
        raise InputError(f"{value!r} needs a model: give Candidate(model, {value!r})")
    if isinstance(value, (str, os.PathLike)):
        return Explainer.load(value)
    raise InputError(
        f"a candidate is an Explainer, the path of an explainer's file, or Candidate(model, method); got {type(value)}"
    )


@dataclass(frozen=True)
class Question:
    """The call that every candidate answers: its arguments as numpy arrays, and how many seconds to time it.

    ``inputs``: one array, a tuple, or a dict by name. Tables stay tables, so that columns are matched by name.
    """

    inputs: Any
    target: Any = None
    baseline: Any = None
    seed: Any = 0
    seconds: float = 0.2

    @classmethod
    def of(cls, inputs: Any, target: Any, baseline: Any, seed: Any, seconds: float) -> Question:
        """A question with arrays of any framework converted to numpy, and every check that needs no model."""
        arrays = _map_inputs(lambda a: a if tables.is_table(a) else to_numpy(a, "inputs"), inputs)
        if seconds < 0:
            raise InputError(f"seconds must be ≥ 0; got {seconds}")
        question = cls(arrays, _as_numpy(target), _as_numpy(baseline), seed, seconds)
        if not question.arrays:
            raise InputError("no inputs given")
        counts = [len(a) if a.ndim else 0 for a in question.arrays]
        if len(set(counts)) > 1:
            raise InputError(f"the inputs have {counts} samples; they need as many each")
        if not counts[0]:
            raise InputError("there are no samples to compare on")
        return question

    @property
    def arrays(self) -> list[Numpy]:
        return [tables.numbers(a, "the inputs") if tables.is_table(a) else a for a in self._input_list]

    @property
    def _input_list(self) -> list[Any]:
        if isinstance(self.inputs, dict):
            return list(self.inputs.values())
        return list(self.inputs) if isinstance(self.inputs, tuple) else [self.inputs]

    def with_arrays(self) -> Question:
        """The same question with tables as arrays, in the column order of the inputs."""
        if not any(map(tables.is_table, self._input_list)):
            return self
        count = len(self._input_list)
        names = list(self.inputs) if isinstance(self.inputs, dict) else [f"input_{i}" for i in range(count)]
        specs = [
            TensorSpec(array.shape, str(array.dtype), name, tables.names(a) if tables.is_table(a) else ())
            for array, name, a in zip(self.arrays, names, self._input_list, strict=True)
        ]
        inputs = _map_inputs(lambda a: tables.numbers(a, "the inputs") if tables.is_table(a) else a, self.inputs)
        return dataclasses.replace(self, inputs=inputs, baseline=tables.aligned(self.baseline, specs))

    def __len__(self) -> int:
        return len(self._input_list[0])

    def subset(self, index: Any, output_shape: tuple[int, ...]) -> Question:
        """The same question for some of the samples. ``output_shape``: shape of one sample's output."""
        positions = np.arange(len(self))[index]
        target = targets_of(self.target, positions, len(self), output_shape)
        seed = samples_of(self.seed, positions, len(self))
        inputs = _map_inputs(lambda a: _take(a, positions), self.inputs)
        return Question(inputs, target, self._baselines(positions), seed, self.seconds)

    @property
    def example(self) -> Any:
        """The first sample's inputs, as a batch of one."""
        return _map_inputs(lambda a: tables.rows(a, 0, 1) if tables.is_table(a) else a[:1], self.inputs)

    def _baselines(self, positions: Numpy) -> Any:
        """The baselines of the samples at ``positions``, where there is one baseline for each sample."""

        def of_positions(baseline: Any, name: Any = 0) -> Any:
            if tables.is_table(baseline):
                return _take(baseline, positions) if len(baseline) == len(self) else baseline
            input_value = self.inputs[name] if isinstance(self.inputs, (dict, tuple)) else self.inputs
            axes = 1 if tables.is_table(input_value) else np.ndim(input_value) - 1
            return samples_of(baseline, positions, len(self), axes)

        if isinstance(self.baseline, References) and self.baseline.per_sample:
            return References(_map_inputs(lambda a: a[positions], self.baseline.array), per_sample=True)
        if isinstance(self.baseline, References) or callable(self.baseline):
            return self.baseline
        if isinstance(self.baseline, dict) and isinstance(self.inputs, dict):
            return {name: of_positions(part, name) for name, part in self.baseline.items()}
        if isinstance(self.baseline, tuple) and isinstance(self.inputs, tuple):
            return tuple(of_positions(part, place) for place, part in enumerate(self.baseline))
        return self.baseline if isinstance(self.inputs, (dict, tuple)) else of_positions(self.baseline)


def _map_inputs(function: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: function(entry) for key, entry in value.items()}
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


def _take(array: Any, places: Numpy) -> Any:
    return tables.take(array, places) if tables.is_table(array) else array[places]


def _as_numpy(value: Any) -> Any:
    """Arrays as numpy arrays; numbers, strings, functions, References and tables unchanged."""

    def entry_as_numpy(entry: Any) -> Any:
        simple = entry is None or isinstance(entry, (int, float, str, list, References)) or callable(entry)
        return entry if simple or tables.is_table(entry) or tables.is_row(entry) else to_numpy(entry, "an argument")

    indices = isinstance(value, tuple) and all(isinstance(entry, int) for entry in value)
    return value if indices else _map_inputs(entry_as_numpy, value)
