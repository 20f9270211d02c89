"""Candidates in a separate process: questions and answers are exchanged through files, never as pickles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import errors
from ..errors import CandidateFailed, ExplainersError, InputError
from ..file.encoding import decode, encode
from ..spec import Numpy
from .candidates import Candidate, Question

LAST = 1500  # how many of the last characters of a process's output an error shows
FIELDS = ("model", "method", "backend", "engine", "name", "options")


def write(folder: Path, name: str, data: Any, what: str) -> None:
    """Write ``data`` as JSON and arrays. It may contain only the types that an explainer's file can hold."""
    arrays: dict[str, Numpy] = {}
    text = json.dumps(encode(data, arrays, what))
    np.savez(folder / f"{name}.npz", allow_pickle=False, **{f"a{i}": a for i, a in enumerate(arrays.values())})
    (folder / f"{name}.json").write_text(json.dumps({"arrays": list(arrays), "data": json.loads(text)}))


def read(folder: Path, name: str) -> Any:
    """Read the data that :func:`write` wrote."""
    header = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
        arrays = {key: archive[f"a{i}"] for i, key in enumerate(header["arrays"])}
    return decode(header["data"], arrays)


def ask(task: str, candidates: Sequence[Candidate], question: Question, timeout: float) -> list[Any]:
    """Run ``task`` for candidates that share a process, and return the answers of :mod:`.child`.

    Raises
    ------
    CandidateFailed: the process ended, or ``timeout`` seconds passed. Errors of a candidate are raised again here.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            write(folder, "question", _question(task, candidates, question), "a candidate's option")
        except errors.ArtifactError as error:
            raise InputError(f"candidate {str(candidates[0])!r} runs in another process: {error}") from error
        answers = _run(folder, candidates, timeout)
    for candidate, answer in zip(candidates, answers, strict=False):
        if "error" in answer:
            kind = getattr(errors, answer["error"], None)
            if not (isinstance(kind, type) and issubclass(kind, ExplainersError)):
                kind = CandidateFailed
            raise kind(f"candidate {str(candidate)!r}: {answer['message']}")
    return answers


def _question(task: str, candidates: Sequence[Candidate], question: Question) -> dict[str, Any]:
    return {
        "task": task,
        "candidates": [{key: _as_dict(getattr(c, key)) for key in FIELDS} for c in candidates],
        "question": {key: getattr(question.with_arrays(), key) for key in Question.__dataclass_fields__},
    }


def _as_dict(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _run(folder: Path, candidates: Sequence[Candidate], timeout: float) -> list[dict[str, Any]]:
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, "KERAS_BACKEND": candidates[0].keras_backend}
    command = [sys.executable, "-m", "explainers.compare.child", str(folder)]
    what = f"the process of candidate {str(candidates[0])!r}"
    try:
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CandidateFailed(f"{what} took more than {timeout:g} s; give compare a larger timeout=") from error
    if process.returncode or not (folder / "answer.json").exists():
        raise CandidateFailed(f"{what} ended with status {process.returncode}:\n{process.stderr[-LAST:]}")
    answers: list[dict[str, Any]] = read(folder, "answer")
    return answers


def question_in(data: Mapping[str, Any]) -> tuple[str, list[Candidate], Question]:
    """The task, the candidates and the question that :func:`ask` wrote; called in the separate process."""
    candidates = []
    for fields in data["candidates"]:
        options = fields.pop("options")
        candidates.append(Candidate(**fields, process=False, **options))
    return data["task"], candidates, Question(**data["question"])
