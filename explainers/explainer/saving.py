"""Turning plans into the contents of a file, and back."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from .. import tables
from ..backend import Backend, Loaded, Traced, backends, device_name, named
from ..errors import ArtifactError, ExplainersError, InputError
from ..file import container
from ..file.container import decoding
from ..file.encoding import Arrays, decode, decode_graph, encode, encode_graph
from ..graph import Value
from ..methods import Method
from ..program.incremental import STARTS
from ..run import Packages
from ..run.call import Stats
from .plan import Options, Plan

Contents = tuple[dict[str, Any], dict[str, bytes]]


def contents(plan: Plan, method: Method, backend: Backend, options: Options, aot: bool = False) -> Contents:
    """The manifest's data, and the members' bytes by name; ``aot``: with programs compiled now."""
    if aot and options.engine not in backend.ahead:
        known = [f"backend {b.name!r} with engine {engine!r}" for b in backends().values() for engine in b.ahead]
        raise InputError(
            f"aot=True compiles ahead of time, which {' or '.join(known)} can; this explainer has backend "
            f"{backend.name!r} with engine {options.engine!r}. Compile it with another engine=, or save it without aot."
        )
    packages = plan.packages
    if not backend.files:
        backend.save({}, plan.traced, engine=options.engine)  # raises, with its reason
    arrays: Arrays = {}
    data = {
        "backend": backend.name,
        "engine": options.engine,
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
        files = backend.save(packages.parts(), plan.traced, engine=options.engine)
    if aot:
        files = backend.compile_ahead(files, device=data["device"])
    own = {container.GRAPH: container.to_json(encode_graph(plan.graph))}
    if arrays:
        own[container.ARRAYS] = container.from_arrays(arrays)
    return data, {**own, **files}


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
    """The checked contents of a file, from which an explainer is built."""

    def __init__(self, source: container.Source) -> None:
        self.source = source
        self.data, self.files = container.read(source)
        with container.reasons(source):
            arrays = container.arrays(self.files.pop(container.ARRAYS, None))
            with decoding("the manifest"):
                self._read(arrays)
        self.backend = named(self.data["backend"])

    def _read(self, arrays: Arrays) -> None:
        data = self.data
        name, engine = data["backend"], data["engine"]
        if name not in backends():
            raise ArtifactError(f"it was made by the backend {name!r}, which is not installed here")
        if engine not in backends()[name].engines:
            raise ArtifactError(f"it was made for the engine {engine!r}, which backend {name!r} does not have")
        method = decode(data["method"], arrays)
        if not isinstance(method, Method):
            raise ArtifactError(f"its method is a {type(method).__name__}")
        self.method: Method = method
        kinds = ("wrt", "output", "baseline", "dtype", "batch_size", "per_token")
        given = {kind: decode(data["options"][kind], arrays) for kind in kinds}
        for name in ("strict", "interacting", "every_output"):
            given[name] = bool(data["options"].get(name, False))  # not in files of 0.1.0
        self.options = Options(engine=engine, device=data["device"], **given)
        self.signature = decode(data["signature"], {})
        self.graph = decode_graph(container.parsed(self.files.pop(container.GRAPH), container.GRAPH))
        self.wrt = tuple(Value(*value) for value in data["wrt"])
        self.specs = tuple(decode(spec, {}) for spec in data["specs"])
        self.parts = {part: [decode(p, {}) for p in some] for part, some in data["parts"].items()}

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
                engine=self.options.engine, batch_size=self.options.batch_size, stats=stats, loaded=loaded,
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
            packages.batch_size = stats.batch_size = min(packages.batch_size, int(self.data["batch_size"]))
        return Plan(traced, packages, self.graph, self.wrt, self.specs, tuple(self.data["places"]), loaded=True)

    def _incremental(self) -> bool:
        """Whether its program computes only what a row can change, and is told where that is."""
        return any(holder.name.startswith(STARTS) for holder in self.parts["explain"])

    def _place(self, device: Any) -> str:
        place = str(self.data["device"])
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
            return self.backend.load(self.files, engine=self.options.engine, device=device, parts=self.parts)
        except ExplainersError:
            raise
        except Exception as error:
            raise ArtifactError(
                f"{self.backend.name} {here} cannot load its programs, which were made by "
                f"{self.data['versions']}: {type(error).__name__}: {error}"
            ) from error
