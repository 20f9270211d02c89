"""The host's share of a warm call of one sample: the time of ``explain(x)`` minus that of the model's work in it.

    python -m benchmarks.host                      # this checkout
    python -m benchmarks.host --against ../other   # and another one in turn, for the change from there to here

torch: a small network; the work is a call of the compiled function on prepared tensors. numpy: a forest of 100 trees;
the work is ``predict_proba`` on the same rows. Each checkout has a process of its own. These take turns, so that drift
of the machine affects both alike. Each number is the median over the turns; µs for torch, and for the forest the cost
in bare calls.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
GOALS = {"integrated_gradients": 60.0}  # µs
GOAL, COST = 35.0, 1.1  # µs for the other methods; bare calls for forests
NETWORK = ("gradient", "saliency", "input_x_gradient", "deeplift", "integrated_gradients")
FOREST = ("feature_ablation", "shapley_sampling", "kernel_shap")
Runs = dict[str, Callable[[], object]]  # "bare", and "explain" on numpy or torch samples


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.host", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="the folder of another checkout")
    parser.add_argument("--turns", type=int, default=12, help="of each checkout and case")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work()
        return
    folders = {"here": HERE} | ({"there": args.against.resolve()} if args.against else {})
    workers = {name: start(folder) for name, folder in folders.items()}
    print(f"| case | {' | '.join(workers)} | goal |\n|---|{'--:|' * len(workers)}---|")
    for case in (*(f"torch {name}" for name in NETWORK), *(f"forest {name}" for name in FOREST)):
        found: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
        for _ in range(args.turns):
            for name, worker in workers.items():
                found[name].append(ask(worker, case))
        for kind in sorted(found["here"][0].keys() - {"bare"}):
            print(row(case, kind, list(found.values())), flush=True)
    for worker in workers.values():
        worker.communicate()


def row(case: str, kind: str, checkouts: list[list[dict[str, float]]]) -> str:
    """A line of the table: what explain adds to the bare work, in µs, or its cost in bare work for forests."""
    forest, method = case.startswith("forest"), case.split()[1]
    goal = COST if forest else GOALS.get(method, GOAL)
    numbers = []
    for turns in checkouts:
        each = [t[kind] / t["bare"] if forest else (t[kind] - t["bare"]) * 1e6 for t in turns]
        numbers.append(statistics.median(each))
    met = "met" if numbers[0] <= goal else "**missed**"
    shown = " | ".join(f"{number:.2f} ×" if forest else f"{number:.1f} µs" for number in numbers)
    return f"| {method}, one {kind} sample | {shown} | ≤ {goal:g} {met} |"


# --- a checkout's process --------------------------------------------------------------------


def start(folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{folder / 'backends'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "--worker"], env=environment, cwd=folder, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def ask(worker: subprocess.Popen[str], case: str) -> dict[str, float]:
    """One turn: the median seconds of each of the case's runs."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(case + "\n")
    worker.stdin.flush()
    times: dict[str, float] = json.loads(worker.stdout.readline())
    return times


def work() -> None:
    """Answer with times, case by case."""
    known: dict[str, Runs] = {}
    for line in sys.stdin:
        kind, method = line.split()
        if line not in known:
            known[line] = network(method) if kind == "torch" else forest(method)
        print(json.dumps(turn(known[line], 400 if kind == "torch" else 25)), flush=True)


def turn(runs: Runs, rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + rounds // 5):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number >= rounds // 5:  # the first ones warm the caches
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in times.items()}


def network(method: str) -> Runs:
    import torch

    from explainers import Explainer
    from explainers_torch.kernel import TorchKernel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(784, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)).eval()
    x = torch.randn(1, 784)
    explain = Explainer.compile(model, method, inputs=x)
    array = x.numpy()
    explain(x, target=1)  # computes the reference's activations, which are kept
    calls: list[tuple[Any, ...]] = []
    call = TorchKernel.__call__

    def recorded(kernel: TorchKernel, *arguments: Any) -> Any:
        calls.append(arguments)
        return call(kernel, *arguments)

    TorchKernel.__call__ = recorded  # type: ignore[method-assign]
    explain(x, target=1)
    TorchKernel.__call__ = call  # type: ignore[method-assign]
    (arguments,) = calls
    native = getattr(explain.native, "forward", explain.native)
    return {
        "bare": lambda: native(*arguments),
        "torch": lambda: explain(x, target=1),
        "numpy": lambda: explain(array, target=1),
    }


def forest(method: str) -> Runs:
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import RandomForestClassifier

    from explainers import Explainer, methods

    values: dict[str, Any] = {
        "feature_ablation": methods.FeatureAblation(), "shapley_sampling": methods.ShapleySampling(20),
        "kernel_shap": methods.KernelShap(512),
    }  # fmt: skip
    x, y = load_breast_cancer(return_X_y=True)
    predict = RandomForestClassifier(random_state=0).fit(x, y).predict_proba
    parts: list[Any] = []

    def recorded(rows: Any) -> Any:
        parts.append(rows.copy())
        return predict(rows)

    Explainer.compile(recorded, values[method], inputs=x[:1], baseline=x.mean(0))(x[:1], target=1)
    rows = parts[1:]  # the first call determines the output's shape
    explain = Explainer.compile(predict, values[method], inputs=x[:1], baseline=x.mean(0))
    return {"bare": lambda: [predict(part) for part in rows], "numpy": lambda: explain(x[:1], target=1)}


if __name__ == "__main__":
    main()
