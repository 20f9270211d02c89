"""The cost of explanations in forward passes of the same model on the same rows, compared with other libraries.

    python -m benchmarks.run --models mlp,cnn --methods saliency,integrated_gradients --seconds 6

F: the time of a bare forward pass of the rows (N for saliency, N × 16 for integrated gradients) in the same packages.
peer: Captum at its best setting (torch), the eager GradientTape (TensorFlow).
Forward-only methods: F and hand are bare calls of the model on as many rows, and so is the peer on numpy.
DeepLIFT has a fixed reference (deeplift_shap: 20); its F and hand are a forward pass and a gradient of the batch alone.
hand: autograd.grad (torch) or a tf.function with tf.gradients (TensorFlow) over the same rows in the same packages.
All candidates of a line run interleaved in one process; costs are medians, ratios are medians over the rounds with
their quartiles. Run nothing else on the machine: it distorts the ratios of calls below a millisecond first.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .report import HEAD, REMOVAL, RULE, SMALL, Line, mark, missed_summary, table_row
from .timing import machine

MODELS = ("mlp", "cnn", "dilated", "bert", "resnet50", "forest")
METHODS = ("saliency", "integrated_gradients", "deeplift", "deeplift_shap", *REMOVAL)
DEEPLIFT = {"deeplift": ("mlp", "cnn", "dilated", "bert"), "deeplift_shap": ("mlp", "cnn")}
BACKENDS = ("torch", "tensorflow", "numpy")


def main() -> None:
    args = arguments()
    if len(args.backends) == 1:
        results = [run_backend(args.backends[0], args)]
    else:  # one process each: the frameworks' thread pools do not mix
        results = [in_a_process(backend, args) for backend in args.backends]
    if args.json:
        Path(args.json).write_text(json.dumps(results[0] if len(results) == 1 else {"runs": results}, indent=1))


def batches(backend: str, name: str, method: str, large: int) -> tuple[int, ...]:
    """The batch sizes to time; empty for a method that is not timed on this backend and model."""
    if backend == "numpy":
        return (1, large) if method in ("shapley_sampling", "kernel_shap", "feature_ablation") else ()
    if method in REMOVAL:
        return (1, large) if backend == "torch" and name in SMALL and method in REMOVAL[:2] else ()
    if method not in DEEPLIFT:
        return (1, large)
    return (large,) if backend == "torch" and name in DEEPLIFT[method] else ()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=among(MODELS), default=list(MODELS))
    parser.add_argument("--methods", type=among(METHODS), default=list(METHODS))
    parser.add_argument("--backends", type=among(BACKENDS), default=list(BACKENDS))
    parser.add_argument("--seconds", type=float, default=6.0, help="for each line of the table")
    parser.add_argument("--threads", type=int, help="threads of torch; by default its own choice")
    parser.add_argument("--quick", action="store_true", help="small models, one second a line")
    parser.add_argument("--json", help="write every measured time here")
    args = parser.parse_args()
    if args.quick:
        args.models, args.seconds = [m for m in args.models if m in ("mlp", "cnn")], min(args.seconds, 1.0)
    return args


def among(names: tuple[str, ...]) -> Any:
    def parse(text: str) -> list[str]:
        parts = [part for part in text.split(",") if part]
        for part in parts:
            if part not in names:
                raise argparse.ArgumentTypeError(f"unknown {part!r}; known: {', '.join(names)}")
        return parts

    return parse


def in_a_process(backend: str, args: argparse.Namespace) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "times.json"
        options = ["--backends", backend, "--models", ",".join(args.models), "--methods", ",".join(args.methods)]
        options += ["--seconds", str(args.seconds), "--json", str(path)]
        options += ["--threads", str(args.threads)] if args.threads else []
        subprocess.run([sys.executable, "-m", "benchmarks.run", *options], check=True)
        return json.loads(path.read_text())


def run_backend(backend: str, args: argparse.Namespace) -> dict[str, Any]:
    """Print the backend's table as it grows; return every measured time."""
    if backend == "tensorflow":
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    cells = importlib.import_module(f"benchmarks.{backend}_cells")
    if args.threads and backend == "torch":
        cells.torch.set_num_threads(args.threads)
    about = f"{machine()}; {cells.versions()}"
    print(f"{about}\n\n{table_row(HEAD)}\n{RULE}", flush=True)
    lines: list[Line] = []
    for name in (name for name in args.models if name in cells.MODELS):
        for method in args.methods:
            large = cells.LARGE_BATCH.get(name, 32)
            for batch in batches(backend, name, method, large):
                lines.append(cells.cell(name, method, batch, args.seconds))
                print(table_row(lines[-1].cells()), flush=True)
    extra = cells.overhead(args.seconds)
    if extra:
        print("\nPython in a warm explain(x), over explain.native on prepared tensors:")
    for what, microseconds in extra:
        print(f"- {what}: {microseconds:.0f} µs{mark(microseconds, 60)}")
    if backend == "torch" and "shapley_sampling" in args.methods:
        share = cells.one_against_many(args.seconds)
        print(f"\nRows/s of one sample with 2,016 perturbations over 63 with 32 each: {share:.2f}")
    print(f"\n{missed_summary(lines)}\n", flush=True)
    return {"about": about, "lines": [line.record() for line in lines], "overhead_microseconds": dict(extra)}


if __name__ == "__main__":
    main()
