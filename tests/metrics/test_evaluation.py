"""Evaluations: what they share, what they do not depend on, and what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from explainers import Explainer, evaluate, metrics
from explainers.errors import InputError, TargetError, UnknownNameError

RNG = np.random.default_rng(0)
W = RNG.standard_normal((6, 3))
X = RNG.standard_normal((7, 6))
MASKS = np.arange(6) < np.arange(1, 8)[:, None].clip(max=5)
NOT_HERE = ("top_k", "road", "consistency", "model_randomization")  # other samples, images, or trained models
ALL = [*(name for name in metrics.METRICS if name not in NOT_HERE), metrics.TopK(2)]


def model(x: Any) -> Any:
    return np.tanh(x @ W) + x[:, :3] ** 2


def explainer(method: Any = "feature_ablation", of: Any = model, **options: Any) -> Explainer:
    return Explainer.compile(of, method, inputs=X, **options)


def scores(x: Any = X, names: Any = ALL, which: Any = slice(None), **arguments: Any) -> metrics.Evaluation:
    explainers = {"ablation": explainer(), "shapley": explainer("shapley_sampling")}
    given = {"noise": np.random.default_rng(1).standard_normal(X.shape)[which]}
    arguments = {"target": 1, "attributions": given, "masks": MASKS[which]} | arguments
    return evaluate(explainers, x, metrics=names, **arguments)


@pytest.fixture(scope="module")
def whole() -> metrics.Evaluation:
    return scores()


def same(found: metrics.Evaluation, wanted: metrics.Evaluation, which: Any = slice(None)) -> None:
    for metric, by_method in found.scores.items():
        for method, array in by_method.items():
            known = wanted.of(metric, method)[which]
            np.testing.assert_allclose(array, known, rtol=1e-9, atol=1e-14, err_msg=f"{metric} {method}")


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_scores_do_not_depend_on_packages(whole: metrics.Evaluation, batch_size: int) -> None:
    same(scores(batch_size=batch_size), whole)


def test_scores_do_not_depend_on_chunks(whole: metrics.Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explainers.metrics.evaluating.BYTES", 1)
    same(scores(), whole)


def test_scores_do_not_depend_on_later_samples(whole: metrics.Evaluation) -> None:
    same(scores(X[:4], which=slice(4)), whole, slice(4))


@pytest.mark.parametrize("metric", ALL, ids=str)
def test_scores_do_not_depend_on_other_metrics(whole: metrics.Evaluation, metric: Any) -> None:
    same(scores(names=[metric]), whole)


def test_scores_do_not_depend_on_the_order_of_methods(whole: metrics.Evaluation) -> None:
    other = evaluate(
        [explainer("shapley_sampling"), explainer()], X, metrics=ALL[::-1], target=1, masks=MASKS, controls=("random",)
    )
    for label in other.metrics:
        for name, known in (("shapley_sampling", "shapley"), ("feature_ablation", "ablation")):
            np.testing.assert_allclose(other.of(label, name), whole.of(label, known), rtol=1e-9)


def test_another_seed_draws_other_numbers(whole: metrics.Evaluation) -> None:
    other = scores(seed=1, names=["faithfulness_correlation", "sensitivity", "deletion"])
    for name in ("faithfulness_correlation", "sensitivity"):
        assert (other.of(name, "shapley") != whole.of(name, "shapley")).all()
    np.testing.assert_array_equal(other.of("deletion", "ablation"), whole.of("deletion", "ablation"))
    assert (other.of("deletion", "random") != whole.of("deletion", "random")).any()


def test_each_row_is_evaluated_once_for_all_metrics_and_methods() -> None:
    counted = []

    def counting(x: Any) -> Any:
        counted.append(len(x))
        return model(x)

    explain = Explainer.compile(counting, "feature_ablation", inputs=X)
    several = {"a": RNG.standard_normal(X.shape), "b": RNG.standard_normal(X.shape)}
    counted.clear()
    names = ["faithfulness_correlation", metrics.Infidelity(), metrics.SensitivityN((0.2,), 100), "completeness"]
    found = evaluate({}, X, metrics=names, attributions=several, model=explain, target=0, controls=())
    ends, sets = 2 * len(X), 100 * len(X)
    assert found.rows == ends + sets
    assert found.asked == 2 * (3 * (ends + sets) + ends)
    assert sum(counted) == found.rows + len(X)  # and the outputs, which are checked first


def test_targets_are_resolved_once(whole: metrics.Evaluation) -> None:
    largest = model(X).argmax(axis=1)
    names = ["deletion", "completeness", "sensitivity"]
    found, wanted = (scores(names=names, target=target) for target in ("max", largest))
    same(found, wanted)
    mask = np.eye(3)[largest]
    same(scores(names=names, target=mask), wanted)
    same(scores(names=names, target=[int(i) for i in largest]), wanted)


def test_per_sample_baselines_and_several_inputs() -> None:
    def two(a: Any, b: Any) -> Any:
        return (a**2).sum(axis=1) + np.tanh(b).sum(axis=(1, 2)) * a[:, 0]

    a, b = RNG.standard_normal((4, 3)), RNG.standard_normal((4, 2, 2))
    explain = Explainer.compile(two, "feature_ablation", inputs=(a, b))
    names = ["deletion", "sensitivity", "completeness", "infidelity"]
    found = evaluate(explain, (a, b), metrics=names, baseline=lambda batch: tuple(np.cos(part) for part in batch))
    for i in range(4):
        one = (a[i : i + 1], b[i : i + 1])
        alone = evaluate(explain, one, metrics=names, baseline=tuple(np.cos(part[0]) for part in one), controls=())
        for name in ("deletion", "completeness"):
            assert found.of(name, "feature_ablation")[i] == pytest.approx(alone.of(name, "feature_ablation")[0])


# --- what is derived from scores -------------------------------------------------------------------


def test_a_further_random_attribution_is_no_better_than_the_control() -> None:
    x = RNG.standard_normal((60, 6))
    given = {"noise": RNG.standard_normal(x.shape)}
    names = ["deletion", "insertion", "abpc", "sensitivity_n", "faithfulness_estimate", "infidelity", "entropy"]
    found = evaluate({}, x, metrics=names, attributions=given, model=explainer(), target=0)
    for name in names:
        over = found.calibrated(name, "noise")
        assert over.low <= 0.15
        assert over.high >= -0.15
        assert found.calibrated(name, "random").mean == 0


def test_a_faithful_attribution_is_better_than_the_control(whole: metrics.Evaluation) -> None:
    for name in ("deletion", "insertion", "abpc", "sensitivity_n", "faithfulness_correlation", "infidelity"):
        assert whole.calibrated(name, "shapley").low > 0, name
    assert whole.calibrated("abpc", "reversed shapley").high < 0


def test_tests_name_the_better_method(whole: metrics.Evaluation) -> None:
    found = {(t.metric, t.first, t.second): t for t in whole.tests()}
    test = found["abpc", "ablation", "noise"]
    assert test.difference > 0
    assert test.p < 0.5
    assert test.samples == 7
    assert found["infidelity", "ablation", "noise"].difference > 0
    assert np.isnan(found["sensitivity", "ablation", "noise"].p)


def test_one_sample_has_no_interval_and_no_test() -> None:
    found = scores(X[:1], which=slice(1), names=["deletion", "sensitivity_n"])
    assert np.isnan(found.mean("deletion", "ablation").low)
    assert np.isfinite(found.mean("deletion", "ablation").mean)
    assert all(np.isnan(test.p) for test in found.tests())
    assert "One sample" in str(found)


def test_an_evaluation_as_text_table_and_json(whole: metrics.Evaluation, tmp_path: Path) -> None:
    shown = str(whole)
    assert "deletion: lower is better" in shown
    assert "an array cannot be explained again" in shown
    assert f"{whole.rows:,} rows" in shown
    frame = whole.frame()
    assert set(frame["metric"]) == set(whole.metrics)
    content = json.loads(whole.to_json(tmp_path / "found.json"))
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8")) == content
    np.testing.assert_allclose(content["scores"]["deletion"]["shapley"], whole.of("deletion", "shapley"))
    assert content["scores"]["sensitivity"]["noise"] == [None] * 7


def test_a_page_without_scripts_and_without_the_network(whole: metrics.Evaluation, tmp_path: Path) -> None:
    page = whole.to_html(tmp_path / "found.html")
    assert (tmp_path / "found.html").read_text(encoding="utf-8") == page
    assert "<script" not in page
    assert page.count("<img") == page.count('alt="') > 1
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]{5})', page))
    for label in whole.metrics:
        assert f"<h2>{label}</h2>" in page
    for name in whole.methods:
        assert f'<th scope="row">{name}</th>' in page


def test_pictures(whole: metrics.Evaluation) -> None:
    axes = whole.plot("deletion").axes[0]
    assert {line.get_label() for line in axes.get_lines()} == set(whole.scores["deletion"])
    assert len(whole.plot().axes) >= len(whole.metrics)
    with pytest.raises(InputError, match="no area"):
        whole.plot("sensitivity")


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"names": ["deletoin"]}, UnknownNameError, "Similar names: deletion"),
        ({"names": []}, InputError, "empty"),
        ({"names": ["deletion", metrics.Deletion()]}, InputError, "given twice"),
        ({"names": [3]}, InputError, "no metric"),
        ({"names": ["pointing_game"], "masks": None}, InputError, "give masks="),
        ({"names": ["pointing_game"], "masks": MASKS[:, :4]}, InputError, r"shape \(7, 4\)"),
        ({"names": ["pointing_game"], "masks": MASKS & (np.arange(7) != 3)[:, None]}, InputError, "3.*empty"),
        ({"names": ["deletion"], "target": "all"}, TargetError, "all"),
        ({"names": ["deletion"], "target": None}, TargetError, "no target"),
        ({"names": ["deletion"], "controls": ("shuffled",)}, UnknownNameError, "control"),
        ({"names": ["deletion"], "attributions": {"a": X[:3]}}, InputError, r"\(3, 6\)"),
        ({"names": ["deletion"], "attributions": {"a": X * np.nan}}, InputError, "NaN"),
        ({"names": ["deletion"], "attributions": {"a": X * 0 + 1}}, InputError, "constant"),
        ({"names": ["deletion"], "attributions": {"shapley": X}}, InputError, "used twice"),
        ({"names": ["deletion"], "attributions": {"random": X}}, InputError, "used twice"),
        ({"names": [metrics.SensitivityN((9,))]}, InputError, "6 features"),
        ({"names": [metrics.FaithfulnessCorrelation(6)]}, InputError, "every set is the same"),
        ({"names": ["deletion"], "x": X[:0], "which": slice(0)}, InputError, "no samples"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        scores(**arguments)


@pytest.mark.parametrize(
    "make",
    [
        lambda: metrics.Deletion(0),
        lambda: metrics.Deletion(order="both"),
        lambda: metrics.FaithfulnessCorrelation(size=1.5),
        lambda: metrics.FaithfulnessCorrelation(draws=1),
        lambda: metrics.SensitivityN(sizes=()),
        lambda: metrics.Infidelity(noise=-1),
        lambda: metrics.Infidelity(of="weights"),
        lambda: metrics.Sensitivity(radius=0),
        lambda: metrics.Sensitivity(reduce="sum"),
        lambda: metrics.TopK(k=0),
        lambda: metrics.EffectiveComplexity(tolerance=1),
    ],
)
def test_bad_parameters_are_named(make: Any) -> None:
    with pytest.raises(InputError):
        make()


def test_explainers_of_another_output_are_refused() -> None:
    with pytest.raises(InputError, match="another output"):
        evaluate([explainer(), explainer("shapley_sampling", lambda x: -model(x))], X, metrics="deletion", target=0)


def test_what_needs_explainers_is_refused_for_arrays() -> None:
    with pytest.raises(InputError, match="explains changed samples"):
        evaluate({}, X, metrics="sensitivity", attributions={"a": X}, model=explainer(), target=0)
    with pytest.raises(InputError, match="no explainer"):
        evaluate({}, X, metrics="deletion", attributions={"a": X}, target=0)


def test_a_model_of_one_output_has_no_other_target() -> None:
    with pytest.raises(InputError, match="several outputs"):
        evaluate(explainer(of=lambda x: model(x)[:, 0]), X, metrics="target_randomization")


def test_whole_numbers_can_be_removed_but_not_moved() -> None:
    ids = RNG.integers(0, 9, (5, 4))
    table = RNG.standard_normal((10, 3))

    def embedded(x: Any) -> Any:
        return np.tanh(table[np.asarray(x)]).sum(axis=1)

    explain = Explainer.compile(embedded, "feature_ablation", inputs=ids, baseline=9)
    found = evaluate(explain, ids, metrics=["deletion", "faithfulness_estimate", "completeness"], target=0)
    np.testing.assert_allclose(found.of("faithfulness_estimate", "feature_ablation"), 1)
    for metric in ("sensitivity", metrics.Infidelity(noise=0.1), "local_lipschitz"):
        with pytest.raises(InputError, match="not floating-point"):
            evaluate(explain, ids, metrics=metric, target=0)


def test_one_mask_of_weights_for_all_samples(whole: metrics.Evaluation) -> None:
    names = ["deletion", "completeness", "sensitivity"]
    same(scores(names=names, target=np.array([0.0, 1.0, 0.0])), whole)


def test_explainers_that_are_traced_at_their_first_call() -> None:
    both = {"a": Explainer.compile(model, "feature_ablation"), "b": Explainer.compile(model, "shapley_sampling")}
    found = evaluate(both, X, metrics="deletion", target=1, controls=())
    assert np.isfinite(found.of("deletion", "b")).all()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from explainers.cli.evaluate import app

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    x = X.astype(np.float32)
    for name in ("gradient", "input_x_gradient"):
        Explainer.compile(network, name, inputs=torch.tensor(x)).save(f"{name}.explainer")
    np.save("x.npy", x)
    np.save("masks.npy", MASKS)
    files = ["gradient.explainer", "input_x_gradient.explainer", "--inputs", "x.npy"]
    arguments = [*files, "--target", "1", "--metric", "deletion:steps=3", "--metric", "pointing_game"]
    runner = CliRunner()
    result = runner.invoke(
        app, ["evaluate", *arguments, "--masks", "@masks.npy", "--json", "found.json", "--html", "found.html"]
    )
    assert result.exit_code == 0, result.output
    assert "deletion(steps=3): lower is better" in result.output
    content = json.loads(Path("found.json").read_text(encoding="utf-8"))
    loaded = {path.stem: Explainer.load(path) for path in map(Path, files[:2])}
    found = evaluate(loaded, x, metrics=[metrics.Deletion(3), "pointing_game"], target=1, masks=MASKS)
    for label, of in found.scores.items():
        for name, array in of.items():
            np.testing.assert_allclose(content["scores"][label][name], array, rtol=1e-6)
    for wrong, text, status in (
        (["--metric", "deletion:stops=3"], "stops", 2),
        (["--metric", "deletoin"], "deletoin", 2),
        (["--metric", "pointing_game"], "--masks", 1),
        (["--metric", "model_randomization"], "changes weights", 1),
    ):
        failed = runner.invoke(app, ["evaluate", *files, "--target", "1", *wrong])
        assert failed.exit_code == status
        assert text in failed.output
