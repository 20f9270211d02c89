"""The result of a comparison: tables of candidates and of pairs, as text, Markdown, HTML, JSON and plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from ..errors import BackendMissing, InputError, UnknownNameError
from ..file import writing
from . import pages, terminal
from .agreement import Pair, Pairs
from .candidates import AnyCandidate, Question
from .locating import Parting, locate
from .measuring import Candidates, Outcome


class Comparison:
    """The result of :func:`explainers.compare`.

    candidates: a table with one :class:`~.measuring.Measurement` per candidate. pairs: a table with one
    :class:`~.agreement.Pair` per pair. attributions: by candidate name, one array or a tuple of arrays.
    """

    def __init__(
        self, outcomes: list[Outcome], pairs: list[Pair], candidate_by_name: Mapping[str, AnyCandidate],
        question: Question, tolerance: float, timeout: float,
    ) -> None:  # fmt: skip
        self.candidates = Candidates(o.measurement for o in outcomes)
        self.pairs = Pairs(pairs)
        self.pairs.tolerance = tolerance
        self.tolerance = tolerance
        self.samples = len(question)
        self.attributions = {
            o.measurement.name: o.attributions[0] if len(o.attributions) == 1 else o.attributions for o in outcomes
        }
        self._candidate_by_name, self._question, self._timeout = candidate_by_name, question, timeout
        self._output_shape = outcomes[0].outputs

    # --- results -----------------------------------------------------------------------------

    @property
    def judged(self) -> list[Pair]:
        """The pairs that decide agreement: those of the same method, or all pairs if no two share a method."""
        return [pair for pair in self.pairs if pair.same_method] or list(self.pairs)

    @property
    def worst(self) -> Pair | None:
        """The pair in ``judged`` with the largest relative difference; None for a single candidate."""
        return max(self.judged, key=lambda pair: pair.relative, default=None)

    def agrees(self, tolerance: float | None = None) -> bool:
        """Whether the relative difference of every pair in ``judged`` is at most ``tolerance``."""
        limit = self.tolerance if tolerance is None else tolerance
        return all(pair.relative <= limit for pair in self.judged)

    def pair(self, left: str, right: str) -> Pair:
        """The pair of these two candidates, in either order."""
        for name in (left, right):
            if name not in self.attributions:
                raise UnknownNameError.among("candidate", name, self.attributions)
        for pair in self.pairs:
            if {pair.left, pair.right} == {left, right}:
                return pair
        raise InputError(f"{left!r} is compared with others, not with itself")

    def locate(self, left: str | None = None, right: str | None = None, *, tolerance: float | None = None) -> Parting:
        """The first node or layer at which two candidates diverge; by default, those of the worst pair.

        Two graphs of the same framework are aligned node by node, graphs of different frameworks by layer names.
        Activations are compared from the inputs forward, then the messages of the backward pass from the output
        back, at the samples that differ most. ``tolerance``: largest relative difference of values that count as
        equal.

        Raises
        ------
        InputError: fewer than two candidates, a method of another library, or an explainer from a file, which has
        no graph.
        """
        if (left is None) != (right is None):
            raise InputError("name two candidates, or none for the worst pair")
        pair = self.worst if left is None or right is None else self.pair(left, right)
        if pair is None:
            raise InputError("there is only one candidate, so there is nothing to locate")
        places = list(dict.fromkeys([pair.sample, *range(min(self.samples, 3))]))
        sides = [(name, self._candidate_by_name[name]) for name in (pair.left, pair.right)]
        limit = self.tolerance if tolerance is None else tolerance
        return locate(sides, self._question.subset(places, self._output_shape), limit, self._timeout)

    # --- output ------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """A summary in one line."""
        count, judged = len(self.candidates), self.judged
        kind = "same method" if any(pair.same_method for pair in self.pairs) else "different methods"
        if self.worst is None:
            return f"{count} candidate on {self.samples} samples"
        agreeing = sum(pair.relative <= self.tolerance for pair in judged)
        return (
            f"{count} candidates on {self.samples} samples: {agreeing} of {len(judged)} pairs of the {kind} agree "
            f"to {self.tolerance:g}; worst {self.worst.relative:.3g} ({self.worst.left} and {self.worst.right})"
        )

    def __str__(self) -> str:
        return "\n\n".join([self.title, str(self.candidates), *([str(self.pairs)] if self.pairs else [])])

    __repr__ = __str__

    def __rich__(self) -> Any:
        return terminal.rich(self)

    def to_dataframe(self) -> Any:
        """The pairs as a pandas DataFrame; ``candidates.to_dataframe()`` has the candidates."""
        return self.pairs.to_dataframe()

    def to_json(self) -> str:
        """Both tables as JSON; non-finite numbers as null."""
        data = {
            "tolerance": self.tolerance, "samples": self.samples, "agrees": self.agrees(),
            "candidates": [asdict(row) for row in self.candidates], "pairs": [asdict(row) for row in self.pairs],
        }  # fmt: skip
        return json.dumps(writing.without_nan(data), indent=2)

    def to_markdown(self) -> str:
        """Both tables as Markdown."""
        return pages.markdown(self)

    def to_html(self) -> str:
        """A self-contained page: both tables, and a matrix of the pairs coloured by agreement."""
        return pages.html(self)

    def plot(self) -> Any:
        """A matplotlib Figure: a matrix of the pairs' relative differences, and bars of latency and memory."""
        try:
            from matplotlib.colors import ListedColormap
            from matplotlib.figure import Figure
        except ImportError as error:
            raise BackendMissing(
                "plots need matplotlib, which is not installed: pip install 'explainers[plots]'"
            ) from error
        return pages.draw(self, Figure, ListedColormap)

    def matrix(self) -> np.ndarray[Any, Any]:
        """Relative differences, (candidates, candidates); 0 on the diagonal."""
        names = list(self.attributions)
        differences = np.zeros((len(names), len(names)))
        for pair in self.pairs:
            i, j = names.index(pair.left), names.index(pair.right)
            differences[i, j] = differences[j, i] = pair.relative
        return differences
