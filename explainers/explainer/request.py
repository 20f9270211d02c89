"""A call of an explainer, checked but not run yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..run import Packages
from ..run.call import Call, Chunk
from ..spec import Numpy
from . import completeness
from .explanation import Explanation
from .plan import Plan
from .unbind import Results

if TYPE_CHECKING:
    from .api import Explainer


@dataclass(slots=True)  # made at every call: frozen ones cost a microsecond more
class Request:
    """A call of an explainer, with its arguments bound and checked, before it runs.

    ``warns``: whether attributions that do not add up raise an IncompleteWarning, on the thread that takes the result.
    """

    explainer: Explainer
    plan: Plan
    call: Call
    results: Results
    warns: bool = True

    @property
    def packages(self) -> Packages:
        return self.plan.packages

    @property
    def rows(self) -> int:
        """How many evaluations of the model the call needs, where that can be said in advance."""
        return self.packages.rows(self.call)

    def attributions(self, chunks: list[Chunk]) -> Any:
        """The attributions, as a call returns them, from the results of the run."""
        self.check(chunks)
        return self.results.attributions(self.call, chunks)

    def explanation(self, chunks: list[Chunk]) -> Explanation:
        """The Explanation, from the results of the run."""
        explain = self.explainer
        incomplete = self.check(chunks, stacklevel=6)
        return self.results.explanation(self.call, chunks, explain.method, explain.coverage.approximate, incomplete)

    def check(self, chunks: list[Chunk], stacklevel: int = 5) -> Numpy | None:
        """Count the samples whose attributions do not add up, warn about them, and return which they are, (N,).

        Raises
        ------
        IncompleteError: if the explainer is strict.
        """
        found = completeness.check(self.packages, self.call, chunks)
        if found is None or not found.count:
            return None if found is None else found.which
        self.explainer.stats.lost(found.count)
        strict = self.explainer._options.strict
        if self.warns or strict:
            completeness.tell(found, self.call, self.explainer.method, strict=strict, stacklevel=stacklevel)
        return found.which
