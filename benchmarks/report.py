"""A line of the table: its measured times, and the ratios it should reach."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .timing import Rounds, median, ratio

STEPS = 16
SMALL = ("mlp", "cnn")
REMOVAL = ("shapley_sampling", "occlusion", "kernel_shap", "feature_ablation")


@dataclass(frozen=True)
class Line:
    """One model, method and batch size. ``times``: the seconds of each candidate in each round."""

    backend: str
    model: str  # its short name
    title: str
    method: str
    batch: int
    package: int  # rows that run at once
    times: Rounds

    @property
    def peer(self) -> str:
        """The fastest of the other libraries' candidates."""
        names = [name for name in self.times if name not in ("forward", "explain", "hand")]
        return min(names, key=lambda name: median(self.times[name]))

    def passes(self, name: str) -> float:
        """Cost in forward passes."""
        return median(self.times[name]) / median(self.times["forward"])

    def goals(self) -> tuple[float | None, float | None]:
        """The largest acceptable ratios of explain to peer and of explain to hand; None means no goal."""
        if self.method == "deeplift":
            return None, (1.6 if self.model == "bert" else 1.25)
        if self.method == "deeplift_shap":
            return (0.55 if self.model == "mlp" else 0.15), None
        if self.backend == "numpy":
            return 1.1, None
        if self.method in REMOVAL:
            return (0.7 if self.batch == 1 else 0.95), None
        if self.backend == "tensorflow":
            return 0.1, 1.1
        if self.method == "saliency":
            return (0.8 if self.model in SMALL and self.batch == 1 else 1.0), 1.1
        if self.model == "dilated":
            return 0.6, 1.1
        return (0.75 if self.batch == 1 else None), 1.1

    def ratios(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """The ratios of explain to peer and to hand: median, lower and upper quartile over the rounds."""
        explain = self.times["explain"]
        return ratio(explain, self.times[self.peer]), ratio(explain, self.times["hand"])

    def cells(self) -> list[str]:
        ratios = [
            f"{value:.2f} ({low:.2f}–{high:.2f}){mark(value, goal)}"
            for (value, low, high), goal in zip(self.ratios(), self.goals(), strict=True)
        ]
        return [
            self.title, self.method, str(self.batch), str(self.package), str(len(self.times["explain"])),
            f"{median(self.times['forward']) * 1e3:.2f}", f"{self.passes('explain'):.2f}",
            f"{self.passes(self.peer):.2f} {self.peer}", f"{self.passes('hand'):.2f}", *ratios,
        ]  # fmt: skip

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "peer": self.peer, "goals": self.goals(), "ratios": self.ratios()}


HEAD = ["model", "method", "batch", "package", "rounds", "forward ms", "explain F", "peer F", "hand F",
        "explain ÷ peer", "explain ÷ hand"]  # fmt: skip
RULE = "|---|---|--:|--:|--:|--:|--:|--:|--:|---|---|"


def table_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def mark(value: float, goal: float | None) -> str:
    if goal is None:
        return ""
    return f" ≤ {goal} met" if value <= goal else f" **> {goal} missed**"


def missed_summary(lines: list[Line]) -> str:
    """How many goals are met, and a list of those that are missed."""
    goal_count, missed_goals = 0, []
    for line in lines:
        for (value, _, _), goal, candidate in zip(line.ratios(), line.goals(), (line.peer, "hand"), strict=True):
            goal_count += goal is not None
            if goal is not None and value > goal:
                where = f"{line.title}, {line.method}, batch {line.batch}"
                missed_goals.append(f"- {where}: {value:.2f} × {candidate}, goal {goal}")
    summary = f"{goal_count - len(missed_goals)} of {goal_count} goals met"
    return "\n".join([summary + ("; missed:" if missed_goals else "."), *missed_goals])
