"""DeepLIFT beside Captum's and SHAP's on trained networks, as a Markdown table: ``python -m benchmarks.beside``.

A vision transformer and a convolutional network of the contract suite, 32 held-out samples, a baseline of zeros: the
largest completeness gap by the change of the output; and, of eight threads that share one explainer, how many of their
calls fail or return something else than the same call alone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

THREADS, CALLS = 8, 200
LABELS = ("torch-vit", "torch-cnn_softmax")


def gap(attribution: Any, change: Any) -> float:
    """The largest |Σ attribution − change| by |change|, at least 1e-3, over samples."""
    total = np.asarray(attribution, np.float64).reshape(len(change), -1).sum(1)
    return float((abs(total - change) / np.maximum(abs(change), 1e-3)).max())


def wrong_in_threads(call: Callable[[int], Any], count: int) -> int:
    """How many of CALLS calls ``call(sample)`` from THREADS threads fail, or differ from the same call alone."""
    alone = [np.asarray(call(i)) for i in range(count)]

    def same(number: int) -> bool:
        try:
            return np.allclose(np.asarray(call(number % count)), alone[number % count], rtol=1e-3, atol=1e-5)
        except Exception:
            return False

    with ThreadPoolExecutor(THREADS) as pool:
        return CALLS - sum(pool.map(same, range(CALLS)))


def subjects(network: Any, x: Any, baseline: Any) -> dict[str, Callable[[Any, Any], Any]]:
    """``call(samples, classes)`` of each library, all on one network."""
    import captum.attr
    import shap
    import torch

    from explainers import Explainer

    explain = Explainer.compile(network, "deeplift", inputs=x[:1], baseline=baseline)
    captums = captum.attr.DeepLift(network)
    shaps = shap.DeepExplainer(network, baseline[None])

    def of_captum(samples: Any, classes: Any) -> Any:
        values = captums.attribute(samples, baseline[None].expand_as(samples), target=classes)
        return values.detach().numpy()

    def of_shap(samples: Any, classes: Any) -> Any:
        values = shaps.shap_values(samples, check_additivity=False)
        return np.stack([values[i, ..., int(c)] for i, c in enumerate(classes)])

    def ours(samples: Any, classes: Any) -> Any:
        return explain(samples, target=classes).detach().numpy()

    assert isinstance(x, torch.Tensor)
    return {"explainers": ours, "Captum": of_captum, "SHAP": of_shap}


def measure(label: str) -> None:
    """Print a line for each library."""
    import torch

    from tests.contract import zoo

    network, x = zoo.network(label).eval(), torch.tensor(zoo.data(label).held_out)
    baseline = torch.zeros_like(x[0])
    with torch.no_grad():
        outputs, blank = network(x), network(baseline[None])
    classes = outputs.argmax(1)
    change = (outputs - blank).gather(1, classes[:, None])[:, 0].double().numpy()
    for name, call in subjects(network, x, baseline).items():
        try:
            found = gap(call(x, classes), change)
            times = []
            for _ in range(9):
                start = time.perf_counter()
                call(x, classes)
                times.append(1e3 * (time.perf_counter() - start))
            wrong = wrong_in_threads(lambda i, call=call: call(x[i : i + 1], classes[i : i + 1]), len(x))  # type: ignore[misc]
            print(f"| {label} | {name} | {found:.1e} | {wrong} | {np.median(times):.1f} |")
        except Exception as error:
            print(f"| {label} | {name} | {type(error).__name__}: {str(error)[:120]} | | |")


def main() -> None:
    warnings.simplefilter("ignore")
    print(f"| network | library | largest gap | of {CALLS} calls in {THREADS} threads, wrong | ms for 32 samples |")
    print("|---|---|--:|--:|--:|")
    for label in LABELS:
        measure(label)


if __name__ == "__main__":
    main()
