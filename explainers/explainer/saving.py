"""Turning plans into the contents of a file, and back."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np

from .. import conditions, tables
from ..backend import CODE, DATA, FORMS, Backend, Loaded, Traced, backends, device_name, named
from ..errors import ArtifactError, ExplainersError, InputError
from ..file import container, signing
from ..file.container import decoding
from ..file.encoding import Arrays, decode, decode_graph, encode, encode_graph
from ..graph import Value
from ..graph.coverage import Operation
from ..methods import Method
from ..program import Placeholder
from ..program.incremental import STARTS
from ..run import Packages
from ..run.call import Stats
from ..spec import STRING, Signature, TensorSpec
from ..stored import Stored
from ..structure import Fixed
from .plan import ALL, Options, Plan, result_specs

Contents = tuple[dict[str, Any], dict[str, bytes]]


def contents(
    plan: Plan, method: Method, backend: Backend, options: Options, aot: bool = False, program: str | None = None
) -> Contents:
    """The manifest's data, and the members' bytes by name.

    ``aot``: with programs compiled now. ``program``: the form of programs; None: code, or what they were loaded from.
    """
    if aot and options.engine not in backend.ahead:
        known = [f"backend {b.name!r} with engine {engine!r}" for b in backends().values() for engine in b.ahead]
        raise InputError(
            f"aot=True compiles ahead of time, which {' or '.join(known)} can; this explainer has backend "
            f"{backend.name!r} with engine {options.engine!r}. Compile it with another engine=, or save it without aot."
        )
    packages = plan.packages
    form = _form(program, packages.loaded, backend, aot)
    if not backend.files:
        backend.save({}, plan.traced, engine=options.engine)  # raises, with its reason
    arrays: Arrays = {}
    data = {
        "backend": backend.name,
        "engine": options.engine,
        "program": form,
        "device": backend.device_name(plan.traced.device),
        "method": encode(method, arrays, "method"),
        "method_text": repr(method),
        "options": {
            "wrt": encode(options.wrt, arrays, "wrt"),
            "output": encode(options.output, arrays, "output"),
            "baseline": encode(tables.aligned(options.baseline, plan.specs), arrays, "baseline"),
            "dtype": options.dtype,
            "batch_size": options.batch_size if options.batch_size is None else int(options.batch_size),
            "per_token": bool(options.per_token),
            "strict": bool(options.strict),
            "interacting": bool(options.interacting),
            "every_output": bool(options.every_output),
        },
        "batch_size": int(packages.batch_size),
        "signature": encode(plan.traced.signature, {}, "signature"),
        "output": plan.graph.outputs[0][0],
        "wrt": [list(value) for value in plan.wrt],
        "places": list(plan.places),
        "specs": [encode(spec, {}, "specs") for spec in plan.specs],
        "attributed": [spec.name for spec in plan.specs],
        "parts": _placeholders(packages),
        "coverage": [encode(row, {}, "coverage") for row in packages.program.coverage()],
        "versions": _versions(backend),
    }
    if packages.loaded is not None:
        files = packages.loaded.files()
    else:
        files = backend.save(packages.parts(), plan.traced, engine=options.engine, form=form)
    if aot:
        files = backend.compile_ahead(files, device=data["device"])
    own = {container.GRAPH: container.to_json(encode_graph(plan.graph))}
    if arrays:
        own[container.ARRAYS] = container.from_arrays(arrays)
    return data, {**own, **files}


def _form(given: str | None, loaded: Loaded | None, backend: Backend, aot: bool) -> str:
    """The form of programs to write, after checking that they can have it."""
    form = given or (loaded.form if loaded is not None else CODE)
    if form not in FORMS:
        raise InputError(f"program is {CODE!r} or {DATA!r}; got {given!r}")
    if form not in backend.forms and backend.files:
        raise InputError(f"program={form!r}: backend {backend.name!r} writes programs only as {backend.forms[0]}")
    if aot and form == DATA:
        raise InputError("aot=True writes machine code, which is no data: give only one of aot=True and program='data'")
    if loaded is not None and loaded.form != form:
        raise InputError(
            f"program={form!r}: this explainer was loaded from a file that holds its programs as {loaded.form}. "
            "Compile the model again to save them in another form."
        )
    return form


def _placeholders(packages: Packages) -> dict[str, Any]:
    """The arguments of each compiled program."""
    parts = packages.parts().items()
    return {name: [encode(p, {}, name) for p in program.placeholders] for name, (program, _) in parts}


def _versions(backend: Backend) -> dict[str, str]:
    return {
        "explainers": version("explainers"), "python": platform.python_version(), "numpy": np.__version__,
        **backend.versions(),
    }  # fmt: skip


class Saved:
    """The checked contents of a file, from which an explainer is built.

    ``trusted``: see :func:`.container.read`. ``program``: the form that its programs must have; None: any.
    """

    def __init__(
        self, source: container.Source, trusted: signing.Keys | None = None, program: str | None = None
    ) -> None:
        if program not in (None, *FORMS):
            raise InputError(f"program is {CODE!r} or {DATA!r}; got {program!r}")
        from ..file import schema  # importing this library stays quick

        self.source = source
        self.data, self.files = container.read(source, trusted)
        with container.reasons(source):
            schema.check(schema.WHOLE, self.data, container.MANIFEST)
            self.form: str = self.data.get("program", CODE)
            if program not in (None, self.form):
                raise ArtifactError(f"it holds its programs as {self.form}, and only {program} may be loaded")
            arrays = container.arrays(self.files.pop(container.ARRAYS, None))
            with decoding("the manifest"):
                self._read(arrays)
                self._check()
        self.backend = named(self.data["backend"])

    def _read(self, arrays: Arrays) -> None:
        data = self.data
        name, engine = data["backend"], data["engine"]
        if name not in backends():
            raise ArtifactError(f"it was made by the backend {name!r}, which is not installed here")
        if engine not in backends()[name].engines:
            raise ArtifactError(f"it was made for the engine {engine!r}, which backend {name!r} does not have")
        self.method: Method = _of(Method, decode(data["method"], arrays), "method")
        kinds = ("wrt", "output", "baseline", "dtype", "batch_size", "per_token")
        given = {kind: decode(data["options"][kind], arrays) for kind in kinds}
        for name in ("strict", "interacting", "every_output"):
            given[name] = bool(data["options"].get(name, False))  # not in files of 0.1.0
        self.options = Options(engine=engine, device=data["device"], **given)
        self.signature: Signature = _of(Signature, decode(data["signature"], {}), "signature")
        self.graph = decode_graph(container.parsed(self.files.pop(container.GRAPH), container.GRAPH))
        self.wrt = tuple(Value(*value) for value in data["wrt"])
        self.places: tuple[int | None, ...] = tuple(data["places"])
        self.specs = tuple(_of(TensorSpec, decode(spec, {}), "spec") for spec in data["specs"])
        self.parts = {
            part: [_of(Placeholder, decode(p, {}), "placeholder") for p in some] for part, some in data["parts"].items()
        }
        rows = [_of(Operation, decode(row, {}), "coverage") for row in data["coverage"]]
        if any(row.count < 0 for row in rows):
            raise ArtifactError("its coverage counts fewer than 0 operations")

    def _check(self) -> None:
        """Raise ArtifactError unless the parts fit each other, as far as the frameworks' programs are not concerned."""
        data, signature, graph = self.data, self.signature, self.graph
        if len({len(self.wrt), len(self.places), len(self.specs)}) > 1:
            raise ArtifactError("its wrt, places and specs are not one for each attributed value")
        expected_specs = result_specs(graph, signature, self.wrt, self.places, self.method)
        pairs = zip(self.wrt, self.places, strict=True)
        inputs = [graph.inputs[place] if place is not None else value for value, place in pairs]
        facts = {
            "output": [data["output"]] == [key for key, _ in graph.outputs],
            "inputs": len(graph.inputs) == len(signature.inputs),
            "positional": 0 <= signature.positional <= len(signature.forms),
            "arguments": sorted(_places(signature.forms)) == list(range(len(signature.inputs))),
            "conditions": all(map(conditions.known, signature.conditions)),
            "places": inputs == [*self.wrt],
            "specs": self.specs == expected_specs,
            "attributed": data["attributed"] == [spec.name for spec in self.specs],
            "wrt": _is_choice(self.options.wrt, several=True) and _is_choice(self.options.output),
            "baseline": _is_baseline(self.options.baseline, any(spec.dtype == STRING for spec in signature.inputs)),
            "parts": {"explain", "predict"} <= self.parts.keys(),
        }
        for name, fits in facts.items():
            if not fits:
                raise ArtifactError(f"what its manifest says of {name!r} does not fit the rest of it")

    def plan(self, device: Any, stats: Stats) -> Plan:
        """The plan with the backend's compiled programs, on the device that they were compiled for."""
        with container.reasons(self.source):
            return self._plan(device, stats)

    def _plan(self, device: Any, stats: Stats) -> Plan:
        loaded = self._loaded(self._place(device))
        with decoding("the graph"):
            traced = Traced(self.graph, self.signature, {}, device=loaded.device)
            packages = Packages(
                self.backend, traced, self.method, self.wrt, self.graph,
                engine=self.options.engine, stats=stats, loaded=loaded,
                batch_size=ALL if self.options.interacting else self.options.batch_size,
                every_output=self.options.every_output, incremental=self._incremental(), reuse="dense" in self.parts,
            )  # fmt: skip
        expected = _placeholders(packages)
        if "groups" not in self.data["parts"]:  # an older file
            expected.pop("groups", None)
        if expected != self.data["parts"]:
            raise ArtifactError(
                "its programs take other arguments than this version gives them (it was made by "
                f"{self.data['versions']}): save it again with this version, or load it with that one"
            )
        if self.options.batch_size is None:  # equal packages give bitwise equal results
            packages.batch_size = stats.batch_size = min(packages.batch_size, self.data["batch_size"])
        return Plan(traced, packages, self.graph, self.wrt, self.specs, self.places, loaded=True)

    def _incremental(self) -> bool:
        """Whether its program computes only what a row can change, and is told where that is."""
        return any(holder.name.startswith(STARTS) for holder in self.parts["explain"])

    def _place(self, device: Any) -> str:
        place: str = self.data["device"]
        if device is None:
            return place
        given = device_name(self.backend, device)
        if place and given != place:
            raise ArtifactError(
                f"it was made for the device {place}, which is fixed in its programs; they cannot run on "
                f"{device}. Compile the model there, with device={str(device)!r}."
            )
        return given

    def _loaded(self, device: str) -> Loaded:
        here = self.backend.versions()
        try:
            return self.backend.load(
                self.files, engine=self.options.engine, device=device, parts=self.parts, form=self.form
            )
        except ExplainersError:
            raise
        except Exception as error:
            raise ArtifactError(
                f"{self.backend.name} {here} cannot load its programs, which were made by "
                f"{self.data['versions']}: {type(error).__name__}: {error}"
            ) from error


Found = TypeVar("Found")


def _of(kind: type[Found], value: Any, what: str) -> Found:
    if not isinstance(value, kind):
        raise ArtifactError(f"its {what} is a {type(value).__name__}")
    return value


def _is_baseline(value: Any, words: bool) -> bool:
    """Whether ``value`` may be a baseline, as far as the shapes of a call are not concerned. ``words``: also a word."""
    if isinstance(value, (tuple, list, dict)):
        return all(_is_baseline(entry, words) for entry in (value.values() if isinstance(value, dict) else value))
    if isinstance(value, str):
        return words
    if isinstance(value, (int, float)):
        return abs(value) < sys.float_info.max
    return isinstance(value, (np.ndarray, Stored))


def _is_choice(value: Any, several: bool = False) -> bool:
    """Whether ``value`` may name an input, an output or a layer, or say nothing."""
    if several and isinstance(value, (list, tuple)):
        return all(_is_choice(entry) for entry in value)
    return value is None or (isinstance(value, (int, str)) and not isinstance(value, bool))


def _places(form: Any) -> Iterator[Any]:
    """The places of arrays in forms of arguments."""
    if isinstance(form, (list, tuple, dict)):
        for entry in form.values() if isinstance(form, dict) else form:
            yield from _places(entry)
    elif not isinstance(form, Fixed):
        yield form
