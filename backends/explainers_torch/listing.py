"""The text of compiled torch programs in files, read as data: nothing of a file is run, and torch is not needed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from explainers.file.container import check_archive, decoding, parsed

SOURCE, GRAPH = ".py", "models/model.json"
DATA = "program.json"


def code(files: Mapping[str, bytes]) -> dict[str, str]:
    """The text of each program by name: the source of TorchScript, the operations of torch.export.

    Raises
    ------
    ArtifactError: a program that is none.
    """
    texts = {}
    if DATA in files:
        with decoding(DATA):
            return {
                f"{DATA}/{name}": "\n".join(_data(told)) for name, told in parsed(files[DATA], DATA)["programs"].items()
            }
    for name, content in files.items():
        if not name.endswith((".pt", ".pt2")):
            continue
        check_archive(content, name)
        with decoding(name), zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                if member.endswith((".so", ".cpp")):
                    texts[f"{name}/{member}"] = f"machine code or its source, {archive.getinfo(member).file_size} bytes"
                elif member.endswith(SOURCE):
                    texts[f"{name}/{member}"] = archive.read(member).decode("utf-8", "backslashreplace")
                elif member.endswith(GRAPH):
                    graph = json.loads(archive.read(member))["graph_module"]["graph"]
                    texts[f"{name}/{member}"] = "\n".join(_lines(graph))
    return texts


def _data(program: Mapping[str, Any]) -> Iterator[str]:
    """A program of :mod:`.data`, whose argument ``{"node": 7}`` is written as ``node7``."""

    def text(value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(text, value))}]"
        if isinstance(value, dict):
            ((kind, told),) = value.items()
            return f"{kind}{told}" if kind in ("argument", "node") else text(told) if kind == "tuple" else str(told)
        return repr(value)

    yield f"def program({', '.join(f'argument{place}' for place in range(program['arguments']))}):"
    for place, (operation, args, kwargs) in enumerate(program["nodes"]):
        given = [*map(text, args), *(f"{key}={text(value)}" for key, value in kwargs.items())]
        yield f"  node{place} = {operation}({', '.join(given)})"
    yield f"  return {', '.join(map(text, program['results']))}"


def _lines(graph: Mapping[str, Any]) -> Iterator[str]:
    yield f"def program({', '.join(map(_argument, graph['inputs']))}):"
    for node in graph["nodes"]:
        given = ", ".join(f"{part['name']}={_argument(part['arg'])}" for part in node["inputs"])
        made = ", ".join(map(_argument, node["outputs"]))
        yield f"  {made} = {node['target']}({given})"
    yield f"  return {', '.join(map(_argument, graph['outputs']))}"


def _argument(value: Any) -> str:
    """An argument as text; torch.export writes its kind around it: ``{"as_tensor": {"name": "x"}}``."""
    if isinstance(value, list):
        return f"[{', '.join(map(_argument, value))}]"
    if not isinstance(value, dict):
        return repr(value)
    if "name" in value:
        return str(value["name"])
    return _argument(next(iter(value.values()), None))
