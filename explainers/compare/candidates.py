"""What is compared: a model with a method, a backend and an engine."""

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

    model: as :meth:`Explainer.compile` takes it, or ``module:name`` or ``file.py:name``, a name of it.
    method: a name or a value of :mod:`explainers.methods`, or a peer's: ``"captum:DeepLift"``,
    ``"shap:DeepExplainer"``. process: True for a process of its own, which needs a model given as a text or a
    path; None takes one where it is needed: for a ``.keras`` file unless Keras runs here on that backend, and
    for ``module:name`` with a backend. options: of ``compile``; of a peer, of its call.
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
        given = {
            "model": os.fspath(model) if isinstance(model, os.PathLike) else model, "method": method,
            "backend": backend, "engine": engine, "name": name, "process": process, "options": options,
        }  # fmt: skip
        for key, value in given.items():
            object.__setattr__(self, key, value)
        if self.peer is None:
            methods.resolve(method)
        if isinstance(self.model, str):
            check(self.model)
        if process and not isinstance(self.model, str):
            raise InputError(
                f"a process of its own needs a model that it can find: a .keras or .pt2 file, the folder of a "
                f"SavedModel, 'package.module:name' or 'file.py:name'; got {type(model).__name__}"
            )

    @property
    def peer(self) -> tuple[str, str] | None:
        """The package and its class, for ``"captum:DeepLift"``."""
        package, colon, kind = self.method.partition(":") if isinstance(self.method, str) else ("", "", "")
        return (package, kind) if colon and package in PEERS else None

    @property
    def keras_file(self) -> bool:
        return isinstance(self.model, str) and self.model.endswith(".keras")

    @property
    def named(self) -> bool:
        """Whether the model is ``module:name``."""
        return isinstance(self.model, str) and not check(self.model)

    @property
    def elsewhere(self) -> bool:
        """Whether it runs in another process."""
        if self.process is not None:
            return self.process
        if not self.keras_file:
            return self.named and self.backend is not None
        keras = sys.modules.get("keras")
        return keras is None or keras.backend.backend() != self.keras_backend

    @property
    def keras_backend(self) -> str:
        """What ``KERAS_BACKEND`` is in a process of its own."""
        return self.backend if self.backend in ("torch", "tensorflow") else "tensorflow"

    def __str__(self) -> str:
        return self.name or f"{self.method}, {self.backend or 'backend by the model'}, {self.engine}"


Given = Candidate | Explainer


def gathered(candidates: Any) -> list[tuple[str | None, Given]]:
    """Names, where there are any, and candidates, from a dict or a sequence in which paths stand for files."""
    if isinstance(candidates, (Candidate, Explainer, str, os.PathLike)):
        candidates = [candidates]
    if not isinstance(candidates, (Mapping, Iterable)):
        raise InputError(f"candidates are a list or a dict by name; got {type(candidates).__name__}")
    pairs = list(candidates.items()) if isinstance(candidates, Mapping) else [(None, c) for c in candidates]
    if not pairs:
        raise InputError("no candidates given: there is nothing to compare")
    found = [(name, _candidate(value)) for name, value in pairs]
    names = [name or getattr(value, "name", None) for name, value in found]
    twice = sorted({name for name in names if name is not None and names.count(name) > 1})
    if twice:
        raise InputError(f"two candidates are called {twice[0]!r}; names must differ")
    return [(name, value) for name, (_, value) in zip(names, found, strict=True)]


def _candidate(value: Any) -> Given:
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
    """What every candidate is asked, in numpy: the call's arguments, and seconds to measure for.

    ``inputs``: one array, a tuple, or a dict by name. Tables stay tables, so that columns go by name.
    """

    inputs: Any
    target: Any = None
    baseline: Any = None
    seed: Any = 0
    seconds: float = 0.2

    @classmethod
    def of(cls, inputs: Any, target: Any, baseline: Any, seed: Any, seconds: float) -> Question:
        """With arrays of any framework as numpy; checked as far as that does not need a model."""
        arrays = _mapped(lambda a: a if tables.is_table(a) else to_numpy(a, "inputs"), inputs)
        if seconds < 0:
            raise InputError(f"seconds must be ≥ 0; got {seconds}")
        found = cls(arrays, _plain(target), _plain(baseline), seed, seconds)
        if not found.arrays:
            raise InputError("no inputs given")
        counts = [len(a) if a.ndim else 0 for a in found.arrays]
        if len(set(counts)) > 1:
            raise InputError(f"the inputs have {counts} samples; they need as many each")
        if not counts[0]:
            raise InputError("there are no samples to compare on")
        return found

    @property
    def arrays(self) -> list[Numpy]:
        return [tables.numbers(a, "the inputs") if tables.is_table(a) else a for a in self._given]

    @property
    def _given(self) -> list[Any]:
        if isinstance(self.inputs, dict):
            return list(self.inputs.values())
        return list(self.inputs) if isinstance(self.inputs, tuple) else [self.inputs]

    def plain(self) -> Question:
        """With tables as arrays, all in the order of the inputs' columns."""
        if not any(map(tables.is_table, self._given)):
            return self
        names = list(self.inputs) if isinstance(self.inputs, dict) else [f"input_{i}" for i in range(len(self._given))]
        specs = [
            TensorSpec(array.shape, str(array.dtype), name, tables.names(a) if tables.is_table(a) else ())
            for array, name, a in zip(self.arrays, names, self._given, strict=True)
        ]
        inputs = _mapped(lambda a: tables.numbers(a, "the inputs") if tables.is_table(a) else a, self.inputs)
        return dataclasses.replace(self, inputs=inputs, baseline=tables.aligned(self.baseline, specs))

    def __len__(self) -> int:
        return len(self._given[0])

    def some(self, index: Any, output_shape: tuple[int, ...]) -> Question:
        """The same of some samples, of a model with this shape of one sample's output."""
        picked = np.arange(len(self))[index]
        target = targets_of(self.target, picked, len(self), output_shape)
        seed = samples_of(self.seed, picked, len(self))
        return Question(
            _mapped(lambda a: _picked(a, picked), self.inputs), target, self._baselines(picked), seed, self.seconds
        )

    @property
    def example(self) -> Any:
        """The first sample's inputs, as a batch of one."""
        return _mapped(lambda a: tables.rows(a, 0, 1) if tables.is_table(a) else a[:1], self.inputs)

    def _baselines(self, picked: Numpy) -> Any:
        """Of the samples ``picked``, where there is one for each: an axis more than one sample's has."""

        def some(baseline: Any, name: Any = 0) -> Any:
            if tables.is_table(baseline):
                return _picked(baseline, picked) if len(baseline) == len(self) else baseline
            given = self.inputs[name] if isinstance(self.inputs, (dict, tuple)) else self.inputs
            axes = 1 if tables.is_table(given) else np.ndim(given) - 1
            return samples_of(baseline, picked, len(self), axes)

        if isinstance(self.baseline, References) and self.baseline.per_sample:
            return References(_mapped(lambda a: a[picked], self.baseline.array), per_sample=True)
        if isinstance(self.baseline, References) or callable(self.baseline):
            return self.baseline
        if isinstance(self.baseline, dict) and isinstance(self.inputs, dict):
            return {name: some(part, name) for name, part in self.baseline.items()}
        if isinstance(self.baseline, tuple) and isinstance(self.inputs, tuple):
            return tuple(some(part, place) for place, part in enumerate(self.baseline))
        return self.baseline if isinstance(self.inputs, (dict, tuple)) else some(self.baseline)


def _mapped(function: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: function(entry) for key, entry in value.items()}
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


def _picked(array: Any, places: Numpy) -> Any:
    return tables.take(array, places) if tables.is_table(array) else array[places]


def _plain(value: Any) -> Any:
    """Arrays as numpy; numbers, texts, functions, References and what has names as they are."""

    def plain(entry: Any) -> Any:
        simple = entry is None or isinstance(entry, (int, float, str, list, References)) or callable(entry)
        return entry if simple or tables.is_table(entry) or tables.is_row(entry) else to_numpy(entry, "an argument")

    indices = isinstance(value, tuple) and all(isinstance(entry, int) for entry in value)
    return value if indices else _mapped(plain, value)
