"""What an explanation costs, in forward passes of the same model on the same rows, beside its peers.

    python -m benchmarks.run --models mlp,cnn --methods saliency,integrated_gradients --seconds 6

F is the time of a bare forward pass of the rows (N for saliency, N × 16 for integrated gradients).
"hand" is autograd.grad (torch) or a tf.function with tf.gradients (TensorFlow) over the same rows in
the same packages. All candidates of a line run interleaved in one process; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from .timing import machine, medians

STEPS = 16
MODELS = ("mlp", "cnn", "dilated", "bert", "resnet50")
METHODS = ("saliency", "integrated_gradients")


def torch_cell(name: str, method: str, batch: int, seconds: float) -> dict[str, Any]:
    """One line of the table."""
    import torch

    from explainers import Explainer, methods

    from .models import subject

    item = subject(name)
    inputs = item.inputs(batch)
    value = methods.Saliency() if method == "saliency" else methods.IntegratedGradients(STEPS)
    explain = Explainer.compile(item.model, value, inputs=inputs, wrt=item.wrt)
    point = item.point(*inputs)
    rows = batch if method == "saliency" else batch * STEPS
    package = min(rows, explain.stats.batch_size)
    repeat = rows // batch
    many = point.repeat_interleave(repeat, 0)
    others = tuple(x.repeat_interleave(repeat, 0) for x in inputs)

    def slices() -> list[slice]:
        return [slice(first, first + package) for first in range(0, rows, package)]

    def forward() -> None:
        with torch.inference_mode():
            for part in slices():
                item.f(many[part], *(x[part] for x in others))

    def hand() -> list[Any]:
        grads = []
        for part in slices():
            leaf = many[part].detach().requires_grad_()
            score = item.f(leaf, *(x[part] for x in others))[:, 1].sum()
            grads.append(torch.autograd.grad(score, leaf)[0])
        return [g.abs() for g in grads] if method == "saliency" else grads

    candidates: dict[str, Callable[[], object]] = {
        "forward": forward, "explain": lambda: explain(*inputs, target=1), "hand": hand,
        **captum_candidates(item, method, point, inputs, package),
    }  # fmt: skip
    times = medians(candidates, seconds)
    return row(item.name, method, batch, package, times)


def captum_candidates(
    item: Any, method: str, point: Any, inputs: tuple[Any, ...], package: int
) -> dict[str, Callable[[], object]]:
    """Captum at each of its sensible settings; the best one counts."""
    from captum.attr import IntegratedGradients, Saliency

    def f(x: Any, *rest: Any) -> Any:
        return item.f(x, *rest)

    extra = inputs if item.wrt else None
    if method == "saliency":
        saliency = Saliency(f)
        return {"captum": lambda: saliency.attribute(
            point.clone().requires_grad_(), target=1, abs=True, additional_forward_args=extra)}  # fmt: skip
    gradients = IntegratedGradients(f)

    def attribute(size: int | None) -> Callable[[], object]:
        return lambda: gradients.attribute(
            point, target=1, n_steps=STEPS, internal_batch_size=size, additional_forward_args=extra
        )

    return {"captum, one batch": attribute(None), "captum, packages": attribute(max(package, len(point)))}


def tensorflow_cell(name: str, method: str, batch: int, seconds: float) -> dict[str, Any]:
    import keras
    import numpy as np
    import tensorflow as tf
    from keras import layers

    from explainers import Explainer, methods

    keras.utils.set_random_seed(0)
    if name == "mlp":
        stack = [keras.Input((784,)), layers.Dense(1024, "relu"), layers.Dense(1024, "relu"), layers.Dense(10)]
    else:
        stack = [
            keras.Input((28, 28, 1)), layers.Conv2D(6, 5, padding="same", activation="relu"), layers.MaxPooling2D(),
            layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
            layers.Dense(120, "relu"), layers.Dense(84, "relu"), layers.Dense(10),
        ]  # fmt: skip
    model = keras.Sequential(stack)
    x = np.random.default_rng(0).standard_normal((batch, *model.input_shape[1:])).astype("float32")
    value = methods.Saliency() if method == "saliency" else methods.IntegratedGradients(STEPS)
    explain = Explainer.compile(model, value)
    rows = batch if method == "saliency" else batch * STEPS
    package = min(rows, explain.stats.batch_size)
    many = tf.constant(np.repeat(x, rows // batch, 0))
    spec = [tf.TensorSpec((None, *x.shape[1:]), tf.float32)]
    forward = tf.function(lambda z: model(z, training=False), input_signature=spec)

    def gradient(z: Any) -> Any:
        grad = tf.gradients(model(z, training=False)[:, 1], z)[0]
        return abs(grad) if method == "saliency" else grad

    by_hand = tf.function(gradient, input_signature=spec)

    def tape(z: Any) -> Any:
        with tf.GradientTape() as recorded:
            recorded.watch(z)
            score = model(z, training=False)[:, 1]
        return abs(recorded.gradient(score, z)).numpy()

    def packages(run: Callable[[Any], Any]) -> Callable[[], object]:
        return lambda: [np.asarray(run(many[first : first + package])) for first in range(0, rows, package)]

    given = tf.constant(x)
    candidates = {
        "forward": packages(forward), "explain": lambda: explain(given, target=1), "hand": packages(by_hand),
        "eager tape": packages(tape),
    }  # fmt: skip
    return row(f"Keras {name}", method, batch, package, medians(candidates, seconds))


def row(name: str, method: str, batch: int, package: int, times: dict[str, float]) -> dict[str, Any]:
    peers = {key: value for key, value in times.items() if key.startswith(("captum", "eager"))}
    best = min(peers, key=lambda key: peers[key])
    return {
        "model": name, "method": method, "batch": batch, "package": package, "times": times, "peer": best,
        "forward_ms": times["forward"] * 1e3, "explain_F": times["explain"] / times["forward"],
        "peer_F": times[best] / times["forward"], "hand_F": times["hand"] / times["forward"],
        "explain/peer": times["explain"] / times[best], "explain/hand": times["explain"] / times["hand"],
    }  # fmt: skip


def goals(line: dict[str, Any]) -> tuple[float | None, float]:
    """The ratios to reach: to the peer, to the hand-written gradient."""
    small = line["model"].startswith(("MLP", "LeNet"))
    if line["model"].startswith("Keras"):
        return 0.1, 1.1
    if line["method"] == "saliency":
        return (0.8 if small and line["batch"] == 1 else 1.0), 1.1
    return (0.6 if line["model"].startswith("dilated") else 0.75 if line["batch"] == 1 else None), 1.1


def table(lines: list[dict[str, Any]]) -> str:
    head = (
        "| model | method | batch | package | forward ms | explain F | peer F | hand F | explain/peer | explain/hand |"
    )
    text = [head, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for line in lines:
        to_peer, to_hand = goals(line)
        peer = f"{line['explain/peer']:.2f}" + ("" if to_peer is None else mark(line["explain/peer"], to_peer))
        hand = f"{line['explain/hand']:.2f}{mark(line['explain/hand'], to_hand)}"
        text.append(
            f"| {line['model']} | {line['method']} | {line['batch']} | {line['package']} | {line['forward_ms']:.2f} | "
            f"{line['explain_F']:.2f} | {line['peer_F']:.2f} | {line['hand_F']:.2f} | {peer} | {hand} |"
        )
    return "\n".join(text)


def mark(value: float, goal: float) -> str:
    return f" (goal {goal}: {'met' if value <= goal else '**missed**'})"


def overhead(seconds: float) -> str:
    """Python's share of a warm call: explain(x) less the compiled function on prepared tensors."""
    import torch

    from explainers import Explainer

    model = torch.nn.Sequential(torch.nn.Linear(784, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)).eval()
    x = torch.randn(1, 784)
    array = x.numpy()
    explain = Explainer.compile(model, "saliency", inputs=x)
    mask, choose = torch.eye(10)[1:2].contiguous(), torch.tensor(0.0)
    native = explain.native
    times = medians(
        {"explain": lambda: explain(array, target=1), "native": lambda: native(x, mask, choose)}, seconds, 500
    )
    extra = (times["explain"] - times["native"]) * 1e6
    return f"Python overhead of a warm explain(x) over explain.native: {extra:.0f} µs{mark(extra, 60)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--backends", default="torch,tensorflow")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each line of the table")
    parser.add_argument("--quick", action="store_true", help="small models, one second a line")
    parser.add_argument("--json", help="write the raw figures here")
    args = parser.parse_args()
    if args.quick:
        args.models, args.seconds = "mlp,cnn", 1.0
    lines = []
    if "torch" in args.backends:
        print(f"{machine()}; torch {version('torch')}, captum {version('captum')}\n", flush=True)
        lines += run_cells(torch_cell, args.models.split(","), args, (1, 32), {"dilated": 4, "bert": 4, "resnet50": 4})
        print(f"\n{overhead(args.seconds)}\n", flush=True)
    if "tensorflow" in args.backends and "torch" in args.backends:  # the frameworks' thread pools do not mix
        options = ["--backends", "tensorflow", "--models", args.models, "--methods", args.methods]
        subprocess.run([sys.executable, "-m", "benchmarks.run", *options, "--seconds", str(args.seconds)], check=True)
    elif "tensorflow" in args.backends:
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        print(f"{machine()}; tensorflow {version('tensorflow-cpu')}, keras {version('keras')}\n", flush=True)
        lines += run_cells(tensorflow_cell, [m for m in args.models.split(",") if m in MODELS[:2]], args, (1, 32), {})
    if args.json:
        with open(args.json, "w") as file:
            json.dump(lines, file, indent=1)


def run_cells(
    cell: Callable[..., dict[str, Any]], names: list[str], args: Any, batches: tuple[int, int], large: dict[str, int]
) -> list[dict[str, Any]]:
    lines = []
    first = True
    for name in names:
        for method in args.methods.split(","):
            for batch in (batches[0], large.get(name, batches[1])):
                lines.append(cell(name, method, batch, args.seconds))
                text = table(lines[-1:]).splitlines()
                print("\n".join(text if first else text[2:]), flush=True)
                first = False
    return lines


if __name__ == "__main__":
    main()
