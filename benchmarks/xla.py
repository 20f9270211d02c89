"""Whether XLA pays on TensorFlow: times of the engine ``graph`` over times of ``xla``, and what the first call costs.

    python -m benchmarks.xla --models tabular,mlp --rows 1,3,32

Both explainers run in one process, in interleaved rounds, with TensorFlow's own settings; ratios are medians of the
rounds, and above 1 where XLA is faster. ``xla`` compiles for each power of two of rows, here in the first call.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from explainers import Explainer, methods

from . import tensorflow_cells
from .timing import machine, median, ratio, rounds

HEAD = "| model, method | rows | graph ms | xla ms | graph ÷ xla | first call of xla s | difference |"
RULE = "|---|--:|--:|--:|---|--:|--:|"


def tabular() -> Any:
    return keras.Sequential([keras.Input((30,)), *(layers.Dense(64, "relu") for _ in range(2)), layers.Dense(2)])


def words() -> Any:
    parts = [layers.Embedding(5000, 64, name="embedding"), layers.GlobalAveragePooling1D(), layers.Dense(128, "relu")]
    return keras.Sequential([keras.Input((32,), dtype="int32"), *parts, layers.Dense(4)])


def attention(blocks: int = 2, width: int = 128) -> Any:
    given = x = keras.Input((64, width))
    for _ in range(blocks):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, width // 4)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(width)(layers.Dense(4 * width, "gelu")(x)))
    return keras.Model(given, layers.Dense(4)(layers.GlobalAveragePooling1D()(x)))


def recurrent() -> Any:
    return keras.Sequential([keras.Input((24, 16)), layers.LSTM(64), layers.Dense(3)])


MODELS: dict[str, Callable[[], Any]] = {
    "tabular": tabular, "mlp": lambda: tensorflow_cells.model("mlp"), "words": words, "attention": attention,
    "recurrent": recurrent, "cnn": lambda: tensorflow_cells.model("cnn"),
}  # fmt: skip
METHODS: dict[str, Any] = {
    "gradient": methods.Gradient(), "integrated_gradients": methods.IntegratedGradients(16),
    "deeplift": methods.DeepLift(), "feature_ablation": methods.FeatureAblation(),
}  # fmt: skip


def samples(shape: tuple[int, ...], dtype: str, rows: int) -> Any:
    random = np.random.default_rng(0)
    values = random.integers(0, 5000, (rows, *shape)) if "int" in dtype else random.standard_normal((rows, *shape))
    return values.astype(dtype)


def measured(name: str, method: str, rows: int, seconds: float) -> str:
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    given = model.inputs[0]
    whole = method == "feature_ablation"
    options: dict[str, Any] = {} if given.dtype != "int32" else {"baseline": 0} if whole else {"wrt": "embedding"}
    by_engine = {e: Explainer.compile(model, METHODS[method], engine=e, **options) for e in ("graph", "xla")}
    x = samples(tuple(given.shape[1:]), given.dtype, rows)
    wanted = np.asarray(by_engine["graph"](x, target=0))
    began = time.perf_counter()
    found = np.asarray(by_engine["xla"](x, target=0))
    first = time.perf_counter() - began
    times = rounds({e: lambda e=e: by_engine[e](x, target=0) for e in by_engine}, seconds, warm=0.1)
    middle, low, high = ratio(times["graph"], times["xla"])
    off = abs(found - wanted).max() / abs(wanted).max()
    ms = [f"{median(times[engine]) * 1e3:.2f}" for engine in ("graph", "xla")]
    cells = [f"{name}, {method}", str(rows), *ms, f"{middle:.2f} ({low:.2f}–{high:.2f})", f"{first:.1f}", f"{off:.0e}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.xla", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rows", default="1,3,32")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each line of the table")
    args = parser.parse_args()
    print(f"{machine()}; {tensorflow_cells.versions()}\n\n{HEAD}\n{RULE}", flush=True)
    for name in args.models.split(","):
        for method in args.methods.split(","):
            for rows in map(int, args.rows.split(",")):
                print(measured(name, method, rows, args.seconds), flush=True)


if __name__ == "__main__":
    main()
