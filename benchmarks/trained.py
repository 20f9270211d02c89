"""The error of DeepLIFT on trained networks, as a Markdown table: ``python -m benchmarks.trained [network …]``.

For each network of the contract suite's zoo and each baseline: the largest completeness gap relative to the change of
the output (at least 1e-3), and the largest attribution relative to the largest change of any output. Each number is
the worse of two targets, the predicted class and a wrong one. The changes are computed with the model itself.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")


def cell(label: str, rule: str, baseline: str, dtype: str) -> str:
    from tests.contract.test_trained import measure

    try:
        measurements = [measure(label, rule, baseline, target, dtype) for target in ("predicted", "wrong")]
    except Exception as error:  # the table shows the error of a cell that cannot be computed
        return type(error).__name__
    columns = zip(*measurements, strict=True)
    gap, _, ratio = (max(values, key=lambda value: (value != value, value)) for values in columns)
    return f"{gap:.1e}, {ratio:.2g}×"


def main() -> None:
    from tests.contract import zoo

    columns = [("rescale", name) for name in zoo.BASELINES] + [("shap", "references")]
    for dtype in ("float32", "float64"):
        print(f"\n{dtype}: largest gap, largest attribution by largest change\n")
        print("| network | " + " | ".join(name for _, name in columns) + " |")
        print("|---" * (len(columns) + 1) + "|")
        for label in sys.argv[1:] or zoo.LABELS:
            cells = [cell(label, rule, name, dtype) for rule, name in columns]
            print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
