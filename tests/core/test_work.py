"""Work packages on a fake backend: how rows are cut, padded, refined, reported; and what out of memory does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, errors, methods

from .fake import FakeBackend, model, slope

Make = Callable[..., tuple[Explainer, FakeBackend]]
IG = methods.IntegratedGradients(steps=6, quadrature="midpoint")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    """An explainer on a fake backend of its own."""

    def build(method: Any = IG, memory: int = 10**9, **options: Any) -> tuple[Explainer, FakeBackend]:
        backend = FakeBackend(memory)
        monkeypatch.setattr("explainers.backend.backends", lambda: {"fake": backend})
        explain = Explainer.compile("fake", method, backend="fake", **options)
        backend.packages.clear()
        return explain, backend

    return build


def samples(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 4))


def by_hand(x: np.ndarray, target: list[int], steps: int = 6) -> np.ndarray:
    mask = np.eye(2)[target]
    return x * sum(slope(x * (k + 0.5) / steps, mask) for k in range(steps)) / steps


TARGET = [0, 1, 1, 0, 1]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 30, 100])
def test_packages_hold_batch_size_rows_across_samples_and_steps(make: Make, size: int) -> None:
    explain, backend = make(batch_size=size)
    np.testing.assert_allclose(explain(samples(5), target=TARGET), by_hand(samples(5), TARGET), rtol=1e-12)
    assert sum(backend.packages) == 5 * 6
    whole = 5 * 6 if size >= 5 else size * 6  # rows of a chunk: as many samples as a package has rows
    expected = []
    for first in range(0, 5, size):
        rows = min(whole, (min(first + size, 5) - first) * 6)
        expected += [min(size, rows - start) for start in range(0, rows, size)]
    assert backend.packages == expected
    assert explain.stats.rows == 30
    assert explain.stats.traces == 1


BASELINES = {
    "default": None,
    "per sample": samples(10)[5:],
    "own": References(samples(10)[5:, None], True),
    "references": References(samples(3)),
}
EACH = [
    ("gradient", "default"), (methods.SmoothGrad(3), "default"), (IG, "default"), (IG, "per sample"),
    (methods.GradientShap(3), "default"), (methods.GradientShap(3), "own"),
    (methods.GradientShap(3), "references"), ("feature_ablation", "default"), ("feature_ablation", "own"),
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 4, 8, 32])
@pytest.mark.parametrize(("method", "baseline"), EACH)
def test_static_sizes_are_padded_powers_of_two(make: Make, method: Any, size: int, baseline: str) -> None:
    """The fake kernel refuses any other size. Results are those of the dynamic engine."""
    options = {"target": TARGET, "baseline": BASELINES[baseline], "seed": 1}
    static, backend = make(method, engine="static", batch_size=size)
    got = static(samples(5), **options)
    sizes = set(backend.packages)
    np.testing.assert_allclose(got, make(method)[0](samples(5), **options), rtol=1e-12)
    assert all(rows & (rows - 1) == 0 and rows <= size for rows in sizes)
    assert static.stats.traces <= math.log2(size) + 1
    assert static.stats.rows + static.stats.padded_rows == sum(backend.packages)


def test_a_static_batch_size_is_rounded_down_to_a_power_of_two(make: Make) -> None:
    explain, backend = make("gradient", engine="static", batch_size=13)
    explain(samples(20), target=0)
    assert set(backend.packages) <= {8, 4}


def test_out_of_memory_halves_the_package_and_says_so(make: Make) -> None:
    explain, backend = make(memory=3, batch_size=16)
    np.testing.assert_allclose(explain(samples(5), target=TARGET), by_hand(samples(5), TARGET), rtol=1e-12)
    assert max(backend.packages) <= 3
    assert explain.stats.out_of_memory == 3  # 16 → 8 → 4 → 2
    assert explain.stats.batch_size == 2
    explain(samples(5), target=TARGET)
    assert explain.stats.out_of_memory == 3  # it has learned


def test_out_of_memory_with_one_row_is_an_error(make: Make) -> None:
    explain, _ = make("gradient", memory=0, batch_size=4)
    with pytest.raises(errors.OutOfMemory, match="does not fit the memory"):
        explain(samples(4), target=0)


def test_samples_leave_when_their_tolerance_is_reached(make: Make) -> None:
    """A cubic along a line from 0: S midpoints are off by 1/(4S²) of Δs for every sample but the zero one."""
    explain, _ = make(methods.IntegratedGradients(steps=2, quadrature="midpoint", tolerance=0.01), batch_size=5)
    x = samples(4)
    x[2] = 0
    result = explain.explanation(x, target=[0, 1, 0, 1])
    assert result.evaluations.tolist() == [2 + 4 + 8, 2 + 4 + 8, 2, 2 + 4 + 8]
    np.testing.assert_allclose(result.attributions, by_hand(x, [0, 1, 0, 1], steps=8), rtol=1e-12)
    assert result.largest_gap <= 0.01


def test_a_tolerance_out_of_reach_names_the_sample(make: Make) -> None:
    method = methods.IntegratedGradients(steps=2, quadrature="midpoint", tolerance=1e-9, max_steps=5)
    explain, _ = make(method)
    x = samples(3)
    x[0] = 0
    with pytest.raises(errors.NotConverged, match=r"sample 1 of 3 is off by .* after 4 steps; tolerance=1e-09"):
        explain(x, target=0)


def test_explanation_holds_outputs_and_gap(make: Make) -> None:
    explain, _ = make(methods.IntegratedGradients(steps=4), batch_size=3)
    x, b = samples(5), samples(10)[5:]
    result = explain.explanation(x, target=TARGET, baseline=b)
    np.testing.assert_allclose(result.outputs, model(x))
    np.testing.assert_allclose(result.baseline_outputs, model(b))
    np.testing.assert_array_equal(result.target, np.eye(2)[TARGET])
    change = ((model(x) - model(b)) * np.eye(2)[TARGET]).sum(1)
    np.testing.assert_allclose(result.completeness_gap, result.attributions.sum(1) - change, atol=1e-12)
    assert abs(result.completeness_gap).max() < 1e-10  # four Gauss points are exact for a cubic
    assert result.evaluations.tolist() == [4] * 5


@pytest.mark.parametrize("batch_size", [2, 7, 100])
def test_standard_error_is_the_spread_over_draws(make: Make, batch_size: int) -> None:
    count = 8
    explain, _ = make(methods.GradientShap(count), batch_size=batch_size)
    references = References(samples(3))
    result = explain.explanation(samples(5), target=0, baseline=references, seed=2)
    one, _ = make(methods.GradientShap(1))
    assert one.explanation(samples(5), target=0, baseline=references).standard_error is None
    many, _ = make(methods.GradientShap(4000))
    far = many.explanation(samples(5), target=0, baseline=references, seed=3)
    ratio = result.standard_error / (far.standard_error * np.sqrt(4000 / count))
    assert 0.4 < np.median(ratio) < 2.0
    off = abs(result.attributions - far.attributions)
    assert (off < 6 * result.standard_error + 1e-9).mean() > 0.9


@pytest.mark.parametrize("method", ["gradient", IG, "feature_ablation"])
@pytest.mark.parametrize("size", [2, 3, 64])
def test_progress_counts_every_row(make: Make, method: Any, size: int) -> None:
    explain, _ = make(method, batch_size=size)
    seen: list[tuple[int, int]] = []
    explain(samples(5), target=0, progress=lambda done, total: seen.append((done, total)))
    rows = {"gradient": 5, "feature_ablation": 25}.get(method if isinstance(method, str) else "", 30)
    assert seen[-1] == (rows, rows)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert {total for _, total in seen} == {rows}


def test_progress_true_shows_a_bar(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    explain, _ = make(batch_size=4)
    explain(samples(5), target=0, progress=True)
    assert "30.0/30.0" in capsys.readouterr().err
    explain(samples(5), target=0)
    assert capsys.readouterr().err == ""


def test_warmup_compiles_what_calls_need(make: Make) -> None:
    explain, _ = make("gradient", engine="static", batch_size=8)
    explain.warmup([1, 2, 3, 8])
    before = explain.stats.traces
    for count in (1, 2, 3, 4, 7, 8, 20):
        explain(samples(count), target=0)
    assert explain.stats.traces == before == 4


def test_a_calls_own_batch_size(make: Make) -> None:
    explain, backend = make(batch_size=30)
    explain(samples(5), target=0, batch_size=7)
    assert max(backend.packages) == 7
    backend.packages.clear()
    explain(samples(5), target=0)
    assert backend.packages == [30]


def test_max_is_found_inside_the_call(make: Make) -> None:
    x = samples(6)
    found = model(x).argmax(1).tolist()
    for method in ("gradient", IG, "feature_ablation"):
        explain, _ = make(method, batch_size=4)
        np.testing.assert_allclose(explain(x, target="max"), explain(x, target=found), rtol=1e-12)
        result = explain.explanation(x, target="max")
        np.testing.assert_array_equal(result.target, np.eye(2)[found])
