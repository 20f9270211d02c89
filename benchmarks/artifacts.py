"""The cost of saved explainers: seconds to compile, save and load, and bytes on disk.

    python -m benchmarks.artifacts --models mlp,cnn --methods saliency,deeplift
    python -m benchmarks.artifacts --models mlp,cnn --together 5

Each line is one explainer on torch, float32, engine torchscript. ``weights``: bytes of the model's own tensors.
``--together``: instead, the seconds to compile ten methods (or ``--methods``) in ten calls and in one call that shares
the trace, medians over that many interleaved rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from explainers import Explainer

from .models import subject

TEN = [
    "gradient", "saliency", "input_x_gradient", "integrated_gradients", "smoothgrad", "guided_backprop", "deeplift",
    "lrp", "occlusion", "feature_ablation",
]  # fmt: skip


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.artifacts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="mlp,cnn,bert,resnet50")
    parser.add_argument("--methods")
    parser.add_argument("--together", type=int, metavar="ROUNDS")
    args = parser.parse_args()
    if args.together:
        print("| model | methods | in separate calls s | in one call s | ratio |\n|---|---|---|---|---|")
        for name in args.models.split(","):
            print(together(name, args.methods.split(",") if args.methods else TEN, args.together), flush=True)
        return
    print("| model | method | compile s | save s | load s | file MB | weights MB |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models.split(","):
            for method in (args.methods or "saliency,integrated_gradients,deeplift").split(","):
                print(line(name, method, Path(folder, "x.explainer")), flush=True)


def together(name: str, chosen: list[str], rounds: int) -> str:
    item = subject(name)
    options: dict[str, Any] = {"inputs": item.inputs(2), "wrt": item.wrt}
    Explainer.compile(item.model, chosen[0], **options)  # the first use of torch.export imports much
    separate, shared = [], []
    for _ in range(rounds):
        separate.append(timed(lambda: [Explainer.compile(item.model, method, **options) for method in chosen])[1])
        shared.append(timed(lambda: Explainer.compile(item.model, chosen, **options))[1])
    one_by_one, at_once = median(separate), median(shared)
    return f"| {name} | {len(chosen)} | {one_by_one:.2f} | {at_once:.2f} | {at_once / one_by_one:.2f} |"


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
