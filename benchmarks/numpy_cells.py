"""The timed candidates on plain callables: the explainer, and bare calls of ``predict_proba`` on the same rows."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np

from explainers import Explainer, methods

from .report import Line
from .timing import rounds

MODELS = ("forest",)
LARGE_BATCH: dict[str, int] = {}
VALUES: dict[str, Any] = {
    "shapley_sampling": methods.ShapleySampling(20),
    "kernel_shap": methods.KernelShap(512),
    "feature_ablation": methods.FeatureAblation(),
}


def versions() -> str:
    return f"scikit-learn {version('scikit-learn')}"


def cell(name: str, method: str, batch: int, seconds: float) -> Line:
    """A forest of 100 trees on the 30 measurements of breast cancer, one thread."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import RandomForestClassifier

    x, y = load_breast_cancer(return_X_y=True)
    predict = RandomForestClassifier(random_state=0).fit(x, y).predict_proba
    calls: list[Any] = []

    def record_call(rows: Any) -> Any:
        calls.append(rows.copy())
        return predict(rows)

    Explainer.compile(record_call, VALUES[method], inputs=x[:1], baseline=x.mean(0))(x[:batch], target=1)
    parts = calls[1:]  # the first call determines the output's shape
    explain = Explainer.compile(predict, VALUES[method], inputs=x[:1], baseline=x.mean(0))
    candidates = {
        "forward": lambda: [predict(part) for part in parts],
        "predict_proba": lambda: [predict(part) for part in parts],
        "explain": lambda: explain(x[:batch], target=1),
        "hand": lambda: [predict(part) for part in parts],
    }
    assert np.isfinite(explain(x[:batch], target=1)).all()
    package = max(len(part) for part in parts)
    return Line("numpy", name, "random forest, 30 features", method, batch, package, rounds(candidates, seconds))


def overhead(seconds: float) -> list[tuple[str, float]]:
    return []
