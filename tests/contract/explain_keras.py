"""Explains every Keras case by every method on the Keras backend that is set. Run in a process of its own.

Usage: explain_keras.py weights_folder result.npz names… — weights are saved there if absent, else loaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

from explainers import errors
from tests.contract import models_keras
from tests.contract.subjects import Subject
from tests.contract.test_cross_backend import methods_for

ENGINE = {"torch": "eager", "tensorflow": "graph"}  # those that start soonest


def main(folder: Path, result: Path, names: list[str]) -> None:
    arrays = {}
    for case in models_keras.CASES:
        if case.name in names:
            arrays.update(explained(case, folder / f"{case.name}.weights.h5"))
    np.savez(result, **arrays)


def explained(case: models_keras.Case, weights: Path) -> dict[str, np.ndarray]:
    model = case.build("float32")
    if weights.exists():
        model.load_weights(weights)
    else:
        model.save_weights(weights)
    found = Subject(case, model, None, "float32")
    x = case.draw(4, "float32", seed=6)
    results = {}
    for method in methods_for(case.name):
        points = [np.zeros((4, 5, 6), "float32")] if case.wrt else x
        baseline, _ = found.baselines(method, points)
        try:
            engine = "auto" if case.wrt else ENGINE[keras.backend.backend()]  # a called model has no layers
            explain = found.compile(method, batch_size=6, engine=engine)
            parts = case.explain(explain, x, target=[0, 1, 1, 0], baseline=baseline, seed=9)
        except errors.ExplainersError as error:  # the test shows it where it belongs
            parts = [np.array(str(error))]
        results.update({f"{case.name}/{method}/{i}": part for i, part in enumerate(parts)})
    return results


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
