"""How far DeepLIFT is off on trained networks, as a Markdown table: ``python -m benchmarks.trained [network …]``.

For each member of the contract suite's zoo and each baseline: the largest gap, relative to the output's change or to
1e-3 where that is smaller, and the largest attribution by the largest change of any output. The worse of the
predicted and a wrong class. Changes are told by the model itself.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")


def cell(label: str, rule: str, baseline: str, dtype: str) -> str:
    from tests.contract.test_trained import measure

    try:
        found = [measure(label, rule, baseline, target, dtype) for target in ("predicted", "wrong")]
    except Exception as error:  # a table says what cannot be computed
        return type(error).__name__
    gap, _, ratio = (max(values, key=lambda value: (value != value, value)) for values in zip(*found, strict=True))
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
