"""The cost of saved explainers: seconds to compile, save and load, and bytes on disk.

    python -m benchmarks.artifacts --models mlp,cnn --methods saliency,deeplift

Each line is one explainer on torch, float32, engine torchscript. ``weights``: bytes of the model's own tensors.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from explainers import Explainer

from .models import subject


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.artifacts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="mlp,cnn,bert,resnet50")
    parser.add_argument("--methods", default="saliency,integrated_gradients,deeplift")
    args = parser.parse_args()
    print("| model | method | compile s | save s | load s | file MB | weights MB |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models.split(","):
            for method in args.methods.split(","):
                print(line(name, method, Path(folder, "x.explainer")), flush=True)


def line(name: str, method: str, path: Path) -> str:
    item = subject(name)
    explain, compiling = timed(lambda: Explainer.compile(item.model, method, inputs=item.inputs(2), wrt=item.wrt))
    _, saving = timed(lambda: explain.save(path))
    _, loading = timed(lambda: Explainer.load(path))
    weight_bytes = sum(t.numel() * t.element_size() for t in (*item.model.parameters(), *item.model.buffers()))
    sizes = f"{path.stat().st_size / 1e6:.2f} | {weight_bytes / 1e6:.2f}"
    return f"| {name} | {method} | {compiling:.2f} | {saving:.2f} | {loading:.3f} | {sizes} |"


if __name__ == "__main__":
    main()
