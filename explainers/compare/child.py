"""The other process: ``python -m explainers.compare.child folder`` answers the question in the folder."""

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
    warnings.simplefilter("ignore")  # the frameworks' own; nobody reads them here
    task, candidates, question = question_in(read(folder, "question"))
    answers = []
    for candidate in candidates:
        answers.append(answered(task, candidate, question))
        if "error" in answers[-1]:
            break
    write(folder, "answer", answers, "an answer")


def answered(task: str, candidate: Candidate, question: Question) -> dict[str, Any]:
    try:
        if task == "record":
            return plain(record(candidate, question))
        return plain(outcome(candidate, question))
    except ExplainersError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except Exception:  # a framework's own: told in the other process, with the candidate's name
        return {"error": CandidateFailed.__name__, "message": traceback.format_exc()[-LAST:]}


def plain(value: Any) -> dict[str, Any]:
    """A dataclass as a dict of what files hold."""
    found: dict[str, Any] = asdict(value)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
