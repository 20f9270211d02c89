"""Which weights influence is computed over, and by which rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..graph import Value
from ..graph.coverage import Table
from ..stored import Stored
from .sites import Block, Sites


@dataclass(frozen=True)
class Weight(Stored):
    """Weights whose curvature is kept together.

    names: as the model calls them. rule: ``dense``, ``conv`` or ``embedding`` (from factors), ``full`` or ``diagonal``
    (whole derivatives), ``none`` (opaque: left out), ``unused`` (the loss does not depend on it), ``left out`` (by
    ``wrt=``, or frozen). entries: how many. share: of all the model's. reason: why it is left out.
    """

    names: str
    rule: str
    entries: int
    share: float
    reason: str = ""


class Coverage(Table[Weight]):
    """One row for each group of weights."""

    columns = ("names", "rule", "entries", "share", "reason")

    @classmethod
    def of(
        cls, sites: Sites, blocks: Sequence[Block], opaque: Mapping[Value, str],
        names: Mapping[Value, tuple[str, bool]], sizes: Mapping[Value, int],
    ) -> Coverage:  # fmt: skip
        """``opaque``: why weights cannot be differentiated. names, sizes: of all weights of the model."""
        total = sum(sizes.values()) or 1
        rows = [Weight(" + ".join(b.names), b.rule, b.entries, b.entries / total) for b in blocks]
        rows += [Weight(sites.names[v], "none", sizes[v], sizes[v] / total, why) for v, why in opaque.items()]
        rows += [Weight(sites.names[v], "unused", sizes[v], sizes[v] / total) for v in sites.unused]
        rows += [
            Weight(name, "left out", sizes[v], sizes[v] / total, "" if trained else "not trained")
            for v, (name, trained) in names.items() if v not in sites.names
        ]  # fmt: skip
        return cls(rows)

    @property
    def share(self) -> float:
        """Of the model's weights that influence is computed over."""
        counted = sum(row.entries for row in self if row.rule not in ("none", "unused", "left out"))
        return counted / max(1, sum(row.entries for row in self))
