"""The separate process of a candidate: ``python -m explainers.compare.child folder`` answers the folder's question."""

from __future__ import annotations

import sys
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import CandidateFailed, ExplainersError
from .candidates import Candidate, Question
from .locating import record
from .measuring import outcome
from .processes import LAST, question_in, read, write


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")  # warnings of the frameworks, which nobody reads here
    task, candidates, question = question_in(read(folder, "question"))
    answers = []
    for candidate in candidates:
        answers.append(answer_for(task, candidate, question))
        if "error" in answers[-1]:
            break
    write(folder, "answer", answers, "an answer")


def answer_for(task: str, candidate: Candidate, question: Question) -> dict[str, Any]:
    try:
        if task == "record":
            return as_fields(record(candidate, question))
        return as_fields(outcome(candidate, question))
    except ExplainersError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except Exception:  # an error of a framework: the parent process raises it with the candidate's name
        return {"error": CandidateFailed.__name__, "message": traceback.format_exc()[-LAST:]}


def as_fields(value: Any) -> dict[str, Any]:
    """A dataclass as a dict that :func:`~.processes.write` can store."""
    fields: dict[str, Any] = asdict(value)
    return fields


if __name__ == "__main__":
    main(Path(sys.argv[1]))
