"""Explain a table: ``python examples/cancer.py [--quick]``.

The data are 30 measurements of each of 569 breast tumours, the model is a random forest. Sampled Shapley values, with
a set of tumours as baseline, show which measurements led to the forest's output for three tumours. Writes
``out/cancer_bars.png`` (with standard errors), ``out/cancer_waterfall.png`` and ``out/cancer.html``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

from explainers import Explainer, References, methods


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer permutations")
    quick = parser.parse_args().quick
    data = load_breast_cancer()
    forest = RandomForestClassifier(100, random_state=0).fit(data.data[::2], data.target[::2])
    x, y = data.data[1::2], data.target[1::2]
    benign = forest.predict_proba(x)[:, 1]
    print(f"held-out accuracy {((benign > 0.5) == y).mean():.1%}")
    # malignant, undecided, benign
    chosen_rows = [int(np.abs(benign - probability).argmin()) for probability in (0.0, 0.5, 1.0)]
    explain = Explainer.compile(
        forest.predict_proba, methods.ShapleySampling(10 if quick else 100), baseline=References(data.data[::40])
    )
    explanation = explain.explanation(x[chosen_rows], target=1)
    assert explanation.largest_gap < 1e-6, "Shapley values add up to the change of the output"
    view: dict[str, Any] = {"names": data.feature_names, "classes": data.target_names, "top": 10}
    folder = Path("out")
    folder.mkdir(exist_ok=True)
    for kind in ("bars", "waterfall"):
        path = folder / f"cancer_{kind}.png"
        explanation.plot(kind, **view).savefig(path)
        print(f"picture: {path}")
    explanation.to_html(folder / "cancer.html", kind="waterfall", **view)


if __name__ == "__main__":
    main()
