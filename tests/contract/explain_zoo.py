"""Explains the zoo's Keras members on the Keras backend that is set. Run in a process of its own.

Usage: explain_zoo.py folder — with the trained weights, ``label.npz``; ``result.npz`` is written there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from explainers import Explainer, methods
from tests.contract import zoo, zoo_keras


def main(folder: Path) -> None:
    results = {}
    for file in folder.glob("tensorflow-*.npz"):
        label = file.stem
        saved = np.load(file)
        model = zoo.member(label).build("float32")
        zoo_keras.load(model, [saved[name] for name in saved.files], 1)
        x = zoo.data(label).held_out
        target = zoo_keras.outputs(model, x).argmax(1)
        explain = Explainer.compile(model, methods.DeepLift(), inputs=x, engine="eager")
        for name in zoo.BASELINES:
            results[f"{label}/{name}"] = np.asarray(explain(x, target=target, baseline=zoo.baseline(label, name)))
    np.savez(folder / "result.npz", **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
