"""What ``run``, ``report`` and ``serve`` explain: an explainer's file, an Explainer in a module, or a model."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import tables
from ..compare import model_names
from ..errors import ArtifactError, ExplainersError, InputError, TraceError, UnknownNameError
from ..explainer.api import Explainer
from ..file import container
from ..file.encoding import Arrays, encode
from ..spec import Numpy, References
from . import sources
from .options import ModelOptions
from .usage import UsageError

PROBED = 8  # samples for which an interrupted run keeps the model's outputs


@dataclass(frozen=True)
class Compiling:
    """How to compile models, and the parameters of methods, as the command line gives them."""

    method: str | None = None
    setting: Sequence[str] = ()
    options: ModelOptions = field(default_factory=ModelOptions)
    device: str | None = None
    tables: str | None = None
    trusted: Sequence[Path] | None = None  # keys, one of which must have signed a file
    program: str | None = None  # the form that a file's programs must have


@dataclass(frozen=True)
class Subject:
    """One argument of a command: ``kind`` is ``"file"``, ``"explainer"`` (an object in a module), or ``"model"``."""

    text: str
    kind: str
    value: Any

    @classmethod
    def of(cls, text: str) -> Subject:
        """The subject that ``text`` names.

        Raises
        ------
        InputError: no such file or module, or a module that fails when it is imported.
        UnknownNameError: the module has no such name.
        """
        path = Path(text)
        if path.suffix == ".py" and path.is_file():
            raise UsageError(f"{text!r} is Python source: name the model or the Explainer in it, as {text}:name")
        if path.is_file() and not (path.suffix in (".keras", ".pt2") and not _is_explainer(path)):
            return cls(text, "file", path)
        if not path.exists() and ":" not in text:
            raise UsageError(
                f"there is no file {text!r}. Give the file of an explainer; or an Explainer, as package.module:name or "
                "file.py:name; or, with --method, a model in the same form, a .keras or .pt2 file, or the folder of a "
                "SavedModel"
            )
        value = model_names.model(text)
        return cls(text, "explainer" if isinstance(value, Explainer) else "model", value)

    @property
    def name(self) -> str:
        """The name under which it is served: that of the file, or of the object in its module."""
        return Path(self.text).stem if self.kind == "file" or Path(self.text).exists() else self.text.rpartition(":")[2]

    def explainer(self, compiling: Compiling, inputs: Callable[[], Any], **more: Any) -> Explainer:
        """The explainer.

        ``inputs()``: examples or specs for what is not traced yet; ``more``: arguments of ``compile`` for a model.

        Raises
        ------
        InputError: a model without a method, or options for a model that go with something else.
        """
        trusted = list(compiling.trusted or ()) or None
        if trusted is not None and self.kind != "file":
            raise UsageError(f"--trusted: {self.text!r} is not the file of an explainer, so no key can have signed it")
        if compiling.program is not None and self.kind != "file":
            raise UsageError(f"--program: {self.text!r} is not the file of an explainer, so it holds no programs")
        if self.kind == "model":
            return self._compiled(compiling, inputs(), **more)
        self.check(compiling)
        explain: Explainer = self.value
        if self.kind == "file":
            explain = Explainer.load(self.value, compiling.device, trusted=trusted, program=compiling.program)
        if self.kind == "explainer" and not explain.traced:
            _trace(self.text, explain, inputs())
        return with_effort(explain, compiling.setting)

    def check(self, compiling: Compiling) -> None:
        """Raise InputError for options that only a model takes, if this is none."""
        if self.kind == "model":
            return
        what = "the file of an explainer" if self.kind == "file" else "an Explainer"
        given = {"method": compiling.method, "tables": compiling.tables, **compiling.options.given}
        wrong = [name for name, value in given.items() if value is not None]
        if self.kind == "explainer" and compiling.device is not None:
            wrong.append("device")
        if wrong:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
            one = len(wrong) == 1
            where = "when you run explainers compile" if self.kind == "file" else "where the module compiles it"
            raise UsageError(
                f"{options}: {self.text!r} is already {what}, and {'this option is' if one else 'these options are'} "
                f"for models. Leave {'it' if one else 'them'} out, or set {'it' if one else 'them'} {where}."
            )

    def _compiled(self, compiling: Compiling, inputs: Any, **more: Any) -> Explainer:
        if compiling.method is None:
            kind = "a model" if isinstance(self.value, str) else f"a model ({type(self.value).__name__})"
            raise UsageError(
                f"{self.text!r} is {kind}: say how to explain it, such as --method "
                "kernel_shap for any function, or --method deeplift for a network"
            )
        functions = sources.functions(self.value)
        if functions and not callable(self.value):
            raise UsageError(
                f"{self.text!r} is a {type(self.value).__name__}, which is not a function of arrays: name one of its "
                f"functions, such as {self.text}.{functions[0]}"
            )
        method = sources.method(compiling.method, compiling.setting)
        try:
            examples = _of_kind(inputs, compiling.tables or "arrow")
            explain = compiling.options.compile(self.value, method, examples, compiling.device, **more)
        except TraceError as error:
            if compiling.tables is not None or not any(map(tables.is_table, _parts(inputs))):
                raise
            raise TraceError(
                f"{error} The model was given the parquet file as an Arrow table; --tables pandas or polars gives "
                "it a data frame instead."
            ) from error
        if not explain.traced:
            raise UsageError(unknown_inputs(self.text))
        return explain

    # --- telling one run from another ------------------------------------------------------------

    @property
    def files(self) -> list[Path]:
        """The files that it is made of."""
        path = Path(self.text)
        if path.is_dir():
            return sorted(part for part in path.rglob("*") if part.is_file())
        if path.is_file():
            return [path]
        return model_names.source(self.text)

    def identity(self, explain: Explainer, compiling: Compiling) -> dict[str, Any]:
        """What tells its results from those of other models and methods; arrays and JSON by name.

        The weights of a model in a module are not in here: :func:`probe` tells whether they are the same.
        """
        if self.kind == "file":
            return {name: member.sha256 for name, member in container.read_manifest(self.value).members.items()}
        return {
            "model": self.text,
            "source": [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files],
            "method": _encoded(explain.method),
            "options": compiling.options.given,
            "device": compiling.device,
            "tables": compiling.tables,
        }


def unknown_inputs(text: str) -> str:
    """The message about a model that does not declare its inputs."""
    return (
        f"the model {text!r} does not declare its inputs: give --inputs with the type and the sizes of one sample, "
        "such as float32[4], or with a file of examples, such as examples.npy"
    )


def with_effort(explain: Explainer, setting: Sequence[str]) -> Explainer:
    """The explainer with the parameters of ``--set``, of which only those of effort may change."""
    if not setting:
        return explain
    return explain.replace(**sources.parameters(setting, sources.kinds(explain.method, explain.method.effort)))


def served(
    texts: Sequence[str], compiling: Compiling, inputs: Sequence[str], default: dict[str, Any]
) -> dict[str, Explainer]:
    """The explainers to serve, by name; each text may begin with ``name=``.

    ``inputs`` and ``default``: the specs or files of examples, and the baseline, of all models. Files and Explainers
    keep what they have; options that nothing takes are an error.

    Raises
    ------
    InputError: a name twice, or options for models where there are none.
    """
    subjects: dict[str, Subject] = {}
    for text in texts:
        name, sign, rest = text.partition("=")
        named = bool(sign) and not Path(text).exists()
        subject = Subject.of(rest if named else text)
        name = name if named else subject.name
        if name in subjects:
            raise UsageError(
                f"two explainers are called {name!r}: give one of them another name, as other={subject.text}"
            )
        subjects[name] = subject
    kinds = {subject.kind for subject in subjects.values()}
    options = {"--inputs": inputs and kinds == {"file"}, "--baseline": default and "model" not in kinds}
    for option in (option for option, wrong in options.items() if wrong):
        raise UsageError(f"{option} is for models, and you gave only explainers, which have their own: leave it out")
    if "model" in kinds:
        compiling_of = {
            "file": Compiling(device=compiling.device, trusted=compiling.trusted, program=compiling.program),
            "explainer": Compiling(trusted=compiling.trusted, program=compiling.program),
            "model": compiling,
        }
    else:  # each refuses what it cannot take
        alone = replace(compiling, device=None) if "file" in kinds else compiling
        compiling_of = {"file": compiling, "explainer": alone}
    return {
        name: subject.explainer(
            compiling_of[subject.kind], lambda: sources.specs(inputs), **(default if subject.kind == "model" else {})
        )
        for name, subject in subjects.items()
    }


def default_baseline(baseline: str | None, references: str | None) -> dict[str, Any]:
    """The argument ``baseline`` of ``compile`` that the options give; empty without them."""
    if baseline is not None and references is not None:
        raise UsageError("give --baseline or --references, not both")
    value = sources.baseline(references or baseline)
    return {} if value is None else {"baseline": References(value) if references else value}


def probe(subject: Subject, explain: Explainer, inputs: Sequence[Any]) -> Numpy | None:
    """The model's outputs for the first samples, (n, …): other weights give others. None for a file.

    A file's bytes tell it from other files. A module may train or load its model anew each time that it is imported.
    """
    if subject.kind == "file" or explain.method.generates:
        return None
    samples = [head(array, PROBED) for array in inputs]
    return np.asarray(explain.predict(*samples, allow_nonfinite=True), np.float64)


def head(array: Any, count: int) -> Any:
    """The first samples of an array or a table in a file."""
    return tables.rows(array, 0, min(count, array.shape[0])) if tables.is_table(array) else np.asarray(array[:count])


def examples(arrays: dict[str, Any]) -> Any:
    """One sample of each input, as ``inputs=`` of ``compile``: a dict by name, a tuple, or a single one.

    Raises
    ------
    InputError: there are no samples, or an array has no axis of samples.
    """
    for name, array in arrays.items():
        if not len(array.shape):
            raise InputError(
                f"the array {name or 'of the file'!r} is a single number; its first axis must be that of the samples"
            )
        if not array.shape[0]:
            raise InputError("there are no samples")
    samples = {name: head(array, 1) for name, array in arrays.items()}
    if len(samples) == 1:
        return next(iter(samples.values()))
    if all(name and not name.isdigit() for name in samples):
        return samples
    return tuple(samples.values())


def _trace(text: str, explain: Explainer, inputs: Any) -> None:
    """Trace an explainer by a first call with the examples ``inputs``."""
    if not all(hasattr(part, "__len__") for part in _parts(inputs)):  # specs, or nothing
        raise InputError(
            f"the Explainer {text!r} does not know its inputs, because it was compiled without examples and not called "
            "since: pass examples to compile in its module"
        )
    explain.predict(inputs, allow_nonfinite=True)


def _parts(inputs: Any) -> list[Any]:
    if isinstance(inputs, dict):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, tuple) else [inputs]


def _of_kind(inputs: Any, kind: str) -> Any:
    """Examples with Arrow tables turned into tables of this kind, which the function is then called with."""
    if kind not in ("arrow", "pandas", "polars"):
        raise UnknownNameError.among("kind of table", kind, ("arrow", "pandas", "polars"))
    if isinstance(inputs, dict):
        return {name: _of_kind(part, kind) for name, part in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(_of_kind(part, kind) for part in inputs)
    if kind == "arrow" or not tables.is_table(inputs):
        return inputs
    try:
        module = importlib.import_module(kind)
    except ImportError as error:
        raise InputError(f"--tables {kind}: {error}. Install it with pip install {kind}") from error
    return inputs.to_pandas() if kind == "pandas" else module.from_arrow(inputs)


def _is_explainer(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        container.read_manifest(path)
    except ArtifactError:
        return False
    return True


def _encoded(value: Any) -> Any:
    """A method as JSON, with digests of its arrays; methods that hold code by their text."""
    arrays: Arrays = {}
    try:
        data = encode(value, arrays, "method")
    except ExplainersError:
        return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    digests = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
    return json.dumps([data, digests], sort_keys=True)
