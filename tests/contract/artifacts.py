"""Files of explainers made, broken, and loaded in processes of their own."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import explainers
from explainers import Explainer, References
from explainers.file import container

from .child import run

MODELS = ("tests", "transformers")  # where the models' classes are


def importable() -> str:
    """The folders that the tested packages are in, for a child's PYTHONPATH."""
    import explainers_numpy

    found = {str(Path(package.__file__ or "").parents[1]) for package in (explainers, explainers_numpy)}
    return os.pathsep.join(sorted(found))


@dataclass
class Job:
    """An explainer with calls of it: (arrays by position, options); arrays may be among the options."""

    name: str
    explain: Explainer
    calls: list[tuple[list[Any], dict[str, Any]]] = field(default_factory=list)


CHILD = """
    import json, sys, warnings
    warnings.simplefilter("error")
    import numpy as np
    from explainers import Explainer, References

    def leaves(found):
        return list(found) if isinstance(found, (tuple, list)) else [found]

    answers = {}
    for name, calls in json.load(open("jobs.json")).items():
        explain = Explainer.load(f"{name}.explainer", program=FORM)
        known = np.load(f"{name}.npz")
        equal = []
        for number, (count, options, references) in enumerate(calls):
            arrays = [known[f"{number}_{i}"] for i in range(count)]
            for key in [k for k in known.files if k.startswith(f"{number}_option_")]:
                options[key.partition("_option_")[2]] = known[key]
            if references is not None:
                options["baseline"] = References(options["baseline"], per_sample=references)
            found = leaves(explain(*arrays, **options))
            found.append(explain.predict(*arrays))
            wanted = [known[f"{number}_want_{i}"] for i in range(len(found))]
            equal.append(all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, wanted)))
        answers[name] = [equal, explain.stats.traces, len(explain.coverage), len(explain.graph.nodes), repr(explain)]
    print(json.dumps([answers, sorted({n.partition(".")[0] for n in sys.modules} & set(BLOCKED))]))
"""


def in_another_process(jobs: list[Job], folder: Path, program: str = "code") -> None:
    """Assert that every job gives the same bits where its model cannot be imported."""
    told = {}
    for number, job in enumerate(jobs):
        job.explain.save(folder / f"{number}.explainer", program=program)
        arrays, told[str(number)] = _expected(job)
        np.savez(folder / f"{number}.npz", **arrays)
    (folder / "jobs.json").write_text(json.dumps(told))
    script = CHILD.replace("BLOCKED", repr(MODELS)).replace("FORM", repr(program))
    answers, imported = run(script, folder, blocked=MODELS, PYTHONPATH=importable())
    assert imported == []
    wrong = {
        jobs[int(number)].name: (equal, traces)
        for number, (equal, traces, *_) in answers.items()
        if traces or not all(equal)
    }
    assert not wrong
    assert len(answers) == len(jobs)
    for job, (_, _, rows, nodes, text) in zip(jobs, answers.values(), strict=True):
        assert rows == len(job.explain.coverage)
        assert nodes == len(job.explain.graph.nodes)
        assert text == repr(job.explain)


def _expected(job: Job) -> tuple[dict[str, np.ndarray], list[Any]]:
    arrays: dict[str, np.ndarray] = {}
    told = []
    for number, (inputs, options) in enumerate(job.calls):
        found = job.explain(*inputs, **options)
        parts = [*found] if isinstance(found, (tuple, list)) else [found]
        parts.append(job.explain.predict(*inputs))
        arrays.update({f"{number}_{i}": array for i, array in enumerate(inputs)})
        arrays.update({f"{number}_want_{i}": np.asarray(part) for i, part in enumerate(parts)})
        given = options.get("baseline")
        references = given.per_sample if isinstance(given, References) else None
        plain = dict(options)
        if isinstance(given, References):
            plain["baseline"] = options["baseline"].array
        arrays.update({f"{number}_option_{k}": v for k, v in plain.items() if isinstance(v, np.ndarray)})
        told.append([len(inputs), {k: v for k, v in plain.items() if not isinstance(v, np.ndarray)}, references])
    return arrays, told


# --- broken files ----------------------------------------------------------------------------


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def rewritten(content: bytes, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> bytes:
    """The file as a forger would write it: all sizes and checksums fit."""
    files = members(content)
    data = json.loads(files.pop(container.MANIFEST))
    change(data, files)
    buffer = io.BytesIO()
    told = data.pop("format")
    container.write(buffer, data, files)
    if told != container.FORMAT:
        return edited(buffer.getvalue(), lambda manifest: manifest.update(format=told))
    return buffer.getvalue()


def edited(content: bytes, change: Callable[[Any], Any]) -> bytes:
    """The file with another manifest, the rest as it was."""
    files = members(content)
    data = json.loads(files.pop(container.MANIFEST))
    change(data)
    return zipped([(container.MANIFEST, json.dumps(data).encode()), *files.items()])


def flipped(content: bytes, name: str) -> bytes:
    """One bit of a member changed where it lies."""
    data = members(content)[name]
    place = content.index(data) + len(data) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def broken(content: bytes) -> dict[str, tuple[bytes, str]]:
    """Files that must be refused, and what the reason says."""
    files = members(content)
    last = [name for name in files if name != container.MANIFEST][-1]

    def with_member(name: str, data: bytes) -> bytes:
        return zipped([*files.items(), (name, data)])

    def unlisted(change: dict[str, bytes | None]) -> bytes:
        merged = {**files, **change}
        return zipped([(n, c) for n, c in merged.items() if c is not None])

    def forged(**entries: Any) -> bytes:
        return rewritten(content, lambda data, _: data.update(entries))

    longer = bytes([files[last][0] ^ 1]) + files[last][1:]
    result = {
        "empty": (b"", "not an explainer's file"),
        "not a zip": (b"no zip at all" * 50, "not an explainer's file"),
        "cut in half": (content[: len(content) // 2], "not an explainer's file"),
        "cut at the end": (content[:-5], "not an explainer's file"),
        "another zip": (zipped([("a.txt", b"a")]), "has no manifest.json"),
        "checksum": (unlisted({last: longer}), "checksum"),
        "size": (unlisted({last: files[last] + b"0"}), "bytes; the manifest says"),
        "missing member": (unlisted({last: None}), "missing"),
        "extra member": (with_member("more.json", b"{}"), "not listed"),
        "leaves the folder": (with_member("../more.json", b"{}"), "has a member with the name"),
        "absolute": (with_member("/tmp/more.json", b"{}"), "has a member with the name"),
        "backslash": (with_member("a\\..\\b", b"{}"), "has a member with the name"),
        "listed path tricks": (
            edited(with_member("../x", b""), lambda m: m["members"].update({"../x": {"size": 0, "sha256": ""}})),
            "has a member with the name",
        ),
        "manifest is no JSON": (unlisted({container.MANIFEST: b"{'format': 1}"}), "not JSON"),
        "manifest is a list": (unlisted({container.MANIFEST: b"[1]"}), "no format number"),
        "manifest is deep": (unlisted({container.MANIFEST: b"[" * 200_000}), "not JSON"),
        "members is a number": (edited(content, lambda m: m.update(members=3)), "does not hold what"),
        "newer format": (edited(content, lambda m: m.update(format=99)), "has format 99; this version reads"),
        "format as text": (edited(content, lambda m: m.update(format="1")), "no format number"),
        "compressed": (zipped([*files.items()], zipfile.ZIP_DEFLATED), "compressed"),
        "unknown backend": (forged(backend="caffe"), "backend 'caffe'"),
        "unknown engine": (forged(engine="turbo"), "engine 'turbo'"),
        "unknown class": (forged(method={"class": "os.system", "fields": {}}), "unknown class 'os.system'"),
        "a class that is no method": (forged(method={"class": "Pass", "fields": {}}), "method is a Pass"),
        "unknown value": (forged(method={"python": "1+1"}), "unknown kind of value"),
        "unknown field": (forged(method={"class": "Gradient", "fields": {"a": 1}}), "has the fields"),
        "bad value": (
            forged(method={"class": "Occlusion", "fields": {"window": -1, "stride": 1, "aggregate": "mean"}}),
            "does not hold what this version expects",
        ),
        "no options": (forged(options={}), "does not hold what this version expects"),
        "graph is no JSON": (rewritten(content, lambda _, f: f.update({container.GRAPH: b"{"})), "not JSON"),
        "graph is empty": (rewritten(content, lambda _, f: f.update({container.GRAPH: b"{}"})), "does not hold"),
        "no graph": (rewritten(content, lambda _, f: f.pop(container.GRAPH)), "does not hold"),
    }
    for name in files:
        result[f"bit of {name}"] = (flipped(content, name), "refused")
    return result
