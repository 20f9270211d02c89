"""Plots and pages of explanations: the plot kind, a common scale, labels, and panels inside their figures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, Explanation, methods, plots
from explainers.errors import InputError, NonFiniteError, UnknownNameError
from explainers.plots import heatmap, layout, swarm, tokens
from explainers.plots.kinds import resolve
from explainers.plots.view import View, panels

pytest.importorskip("matplotlib")
HOSTILE = "<script>alert('$x^{2$')</script>\n&\"'"


def explained(x: Any, method: str | methods.Method = "feature_ablation", **more: Any) -> Explanation:
    """An explanation of a model with two outputs, each a weighted sum of the features."""
    weights = np.random.default_rng(0).normal(size=(2, *x.shape[1:]))
    axes = tuple(range(1, x.ndim))

    def model(rows: Any) -> Any:
        return np.stack([(rows * w).sum(axis=axes) for w in weights], axis=1)

    return Explainer.compile(model, method, inputs=x).explanation(x, **{"target": 1, **more})


def samples(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def one_hot(count: int, length: int, letters: int = 4) -> Any:
    return np.eye(letters, dtype="float32")[np.random.default_rng(0).integers(letters, size=(count, length))]


def words(count: int = 3, scores: Any = None) -> Explanation:
    """An explanation of tokens, as ``per_token`` computes it."""
    ids = np.arange(count * 4).reshape(count, 4) % 3
    result = samples(count, 4) if scores is None else scores
    return Explanation(
        result, samples(count, 2), None, np.tile([0.0, 1.0], (count, 1)), None, None, np.ones(count, int),
        methods.Gradient(), given={"ids": ids}, attributed=("embed",),
    )  # fmt: skip


def kind(explanation: Explanation, **view: Any) -> str:
    chosen = View.of(view)
    return resolve("auto", panels(explanation, chosen)[0][0], chosen).name


def texts(figure: Any) -> str:
    """All texts in a figure."""
    result = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        result += [axes.get_xlabel(), axes.get_ylabel(), *(text.get_text() for text in axes.texts)]
        result += [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    return "\n".join(result)


# --- kinds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "view", "wanted"),
    [
        (samples(2, 1), {}, "bars"),
        (samples(2, 30), {}, "bars"),
        (samples(2, 1000), {}, "curves"),
        (samples(2, 1000), {"names": [f"gene {i}" for i in range(1000)]}, "bars"),
        (samples(2, 8, 8), {}, "image"),
        (samples(2, 1, 8, 8), {}, "image"),
        (samples(2, 8, 9, 3), {}, "image"),
        (samples(2, 2, 100), {}, "curves"),
        (samples(2, 100, 2), {}, "curves"),
        (one_hot(2, 30), {}, "logo"),
        (one_hot(2, 30).transpose(0, 2, 1), {}, "logo"),
        (one_hot(2, 30, 20), {}, "logo"),
        (one_hot(2, 6, 5), {}, "image"),
        (one_hot(2, 6, 5), {"names": "ABCDE"}, "logo"),
    ],
)
def test_auto_goes_by_shape_and_values(x: Any, view: dict[str, Any], wanted: str) -> None:
    assert kind(explained(x), **view) == wanted
    figure = explained(x).plot(**view)
    figure.canvas.draw()
    assert wanted in figure.alt


def test_tokens_are_found_by_their_ids() -> None:
    assert kind(words()) == "tokens"
    text = texts(words().plot(names=["zero", "one", "two"], samples=1))
    assert text.count("zero") == 2  # ids 0, 1, 2, 0
    assert "sample 0, target 1" in text


@pytest.mark.parametrize("name", sorted(plots.KINDS))
@pytest.mark.parametrize("features", [1, 1000])
def test_one_feature_and_a_thousand(name: str, features: int) -> None:
    x = {"logo": one_hot(1, features), "image": samples(1, 1, features)}.get(name, samples(1, features))
    if name == "tokens":
        result = replace(words(1), attributions=x, given={"ids": np.zeros((1, features), int)})
    else:
        result = explained(x, methods.ShapleySampling(1))
    figure = result.plot(name, samples=1)
    figure.canvas.draw()
    assert max(figure.get_size_inches()) < 30


def test_a_kind_that_does_not_fit_says_why() -> None:
    with pytest.raises(UnknownNameError, match="waterfall"):
        explained(samples(2, 3)).plot("waterfal")
    with pytest.raises(UnknownNameError, match="samples"):
        explained(samples(2, 3)).plot(sample=2)
    with pytest.raises(InputError, match="channels='first' or 'last'"):
        explained(samples(2, 3, 8, 3)).plot()
    with pytest.raises(InputError, match="neither first nor last"):
        explained(samples(2, 7, 8, 9)).plot()
    with pytest.raises(InputError, match="kind='bars'"):
        explained(samples(2, 2, 2, 2, 2)).plot()
    with pytest.raises(InputError, match="one-hot"):
        explained(samples(2, 9, 4)).plot("logo")
    with pytest.raises(InputError, match="per_token=True"):
        explained(samples(2, 9)).plot("tokens")
    with pytest.raises(InputError, match="do not add up"):
        explained(samples(2, 9)).plot("waterfall")
    with pytest.raises(InputError, match="9 features"):
        explained(samples(2, 9)).plot(names=["a"])
    with pytest.raises(InputError, match="2 samples"):
        explained(samples(2, 9)).plot(samples=[2])
    with pytest.raises(InputError, match="no samples"):
        explained(samples(0, 9)).plot()


def test_channels_are_summed() -> None:
    x = samples(2, 3, 5, 6)
    first, last = explained(x), explained(x.transpose(0, 2, 3, 1))
    view = View()
    chosen = plots.KINDS["image"].drawn_scores
    np.testing.assert_allclose(chosen(panels(first, view)[0][0], view), first.attributions[0].sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(chosen(panels(last, view)[0][0], view), last.attributions[0].sum(axis=-1), rtol=1e-5)
    many = explained(samples(2, 7, 8, 9))
    arguments = View(channels="last")
    assert chosen(panels(many, arguments)[0][0], arguments).shape == (7, 8)


def test_a_logo_has_the_letters_of_the_sequence() -> None:
    from explainers.plots import logo

    x = one_hot(1, 12)
    explanation = explained(x)
    (panel,) = panels(explanation, View())[0]
    assert "".join(logo._letters(panel, View())) == "".join("ACGT"[k] for k in x[0].argmax(axis=1))
    np.testing.assert_allclose(
        logo.drawn_scores(panel, View()), (explanation.attributions[0] * x[0]).sum(axis=1), rtol=1e-5
    )
    transposed = panels(explained(x.transpose(0, 2, 1)), View())[0][0]
    assert logo._letters(transposed, View()) == logo._letters(panel, View())


def test_a_logo_of_mutations_shows_what_the_output_loses() -> None:
    """The letters that are there have no effect of their own."""
    from explainers.plots import logo

    x = one_hot(1, 12)
    explanation = explained(x, "ism")
    (panel,) = panels(explanation, View())[0]
    weights = np.random.default_rng(0).normal(size=(2, 12, 4))[1]
    own = (weights * x[0]).sum(axis=1)
    others = (weights.sum(axis=1) - own) / 3
    np.testing.assert_allclose(logo.drawn_scores(panel, View()), own - others, rtol=1e-4)
    assert "mean loss if replaced" in texts(explanation.plot("logo"))
    assert "attribution" in texts(explained(x).plot("logo"))
    unknown = replace(panel, values=panel.values * (np.arange(12) > 0)[:, None])  # a position without a letter
    assert logo.drawn_scores(unknown, View())[0] == 0


# --- scales and labels ------------------------------------------------------------------------


def test_the_colours_are_centred_and_shared() -> None:
    x = samples(3, 8, 8)
    explanation = explained(x)
    largest = float(np.abs(explanation.attributions).max())
    figure = explanation.plot()
    bars = [axes for axes in figure.axes if list(axes.get_yticks()) == [-1, 0, 1]]
    assert len(bars) == 1
    ends = [label.get_text().replace("−", "-") for label in bars[0].get_yticklabels()]
    assert float(ends[2]) == -float(ends[0]) == pytest.approx(largest, rel=0.01)
    from explainers.plots.canvas import colours

    assert np.ptp(colours(np.array([0.0]), largest)[0, :3]) < 0.01  # 0 is white
    red, blue = colours(np.array([largest, -largest]), largest)[:, :3]
    assert red[0] > red[2]
    assert blue[2] > blue[0]


def test_pictures_of_rise_are_centred() -> None:
    """Its scores are means of outputs, which are all positive here."""
    x = abs(samples(2, 8, 8))
    explanation = Explainer.compile(lambda rows: 5 + rows.mean(axis=(1, 2)), methods.Rise(20), inputs=x).explanation(x)
    assert (explanation.attributions > 1).all()
    view = View()
    for panel, scores in zip(panels(explanation, view), explanation.attributions, strict=True):
        drawn = plots.KINDS["image"].drawn_scores(panel[0], view)
        np.testing.assert_allclose(drawn, scores - scores.mean(), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(plots.KINDS["curves"].drawn_scores(panel[0], view), drawn.T)
    assert "minus its mean" in texts(explanation.plot())
    assert "minus its mean" in texts(explanation.plot("curves"))
    assert "minus its mean" not in texts(explanation.plot("bars"))
    assert "around the mean of each picture" in explanation.to_html()


def test_bars_share_an_axis_and_have_standard_errors() -> None:
    explanation = explained(samples(3, 4), methods.ShapleySampling(8))
    model = Explainer.compile(lambda x: np.tanh(x).prod(axis=1), methods.ShapleySampling(8), inputs=samples(3, 4))
    explanation = model.explanation(samples(3, 4))
    figure = explanation.plot(names=["a", "b", "c", "d"])
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert all(len(axes.containers) > 4 for axes in figure.axes)  # bars, and error bars in between
    assert "± standard error" in texts(figure)


def test_the_waterfall_goes_from_the_baselines_output_to_the_output() -> None:
    explanation = explained(samples(1, 30), methods.ShapleySampling(4))
    figure = explanation.plot("waterfall", top=5)
    text = texts(figure)
    assert "25 others" in text
    assert "completeness gap" not in text
    (ends,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    reached = [explanation.baseline_outputs[0, 1], explanation.outputs[0, 1]]  # type: ignore[index]
    np.testing.assert_allclose(ends.get_xdata(), reached, rtol=1e-5)
    steps = sum(patch.get_width() for patch in figure.axes[0].patches)
    assert steps == pytest.approx(reached[1] - reached[0], rel=1e-4)
    off = replace(explanation, attributions=explanation.attributions * 0.5)
    assert "completeness gap" in texts(off.plot("waterfall"))


def test_labels_tell_method_target_and_outputs() -> None:
    explanation = explained(samples(2, 5), methods.ShapleySampling(4), target=[0, 1])
    text = texts(explanation.plot(classes=["cat", "dog"]))
    for said in ("shapley_sampling", "target cat", "target dog", "sample 1", "baseline"):
        assert said in text
    assert f"{explanation.outputs[0, 0]:.3g}".replace("-", "−") in text
    assert "2 weighted outputs" in texts(explained(samples(2, 5), target=[0.5, 0.5]).plot())


def test_several_inputs() -> None:
    def model(image: Any, wave: Any) -> Any:
        return (image.sum(axis=(1, 2)) * wave.sum(axis=1))[:, None]

    result = Explainer.compile(model, methods.ShapleySampling(2)).explanation(
        image=samples(2, 4, 4), wave=samples(2, 200), target=0
    )
    assert list(result.inputs) == ["image", "wave"]
    figure = result.plot()
    assert len(figure.axes) == 5  # two for each of two samples, and one colour bar
    assert "image" in texts(figure)
    assert len(result.plot(input="wave").axes) == 3
    text = texts(result.plot("waterfall", input="image"))
    assert "other inputs" in text
    with pytest.raises(UnknownNameError, match="image, wave"):
        result.plot(input="imag")


def test_all_outputs_need_one_to_show() -> None:
    explanation = explained(samples(2, 5), target="all")
    with pytest.raises(InputError, match="output="):
        explanation.plot()
    assert "target 1" in texts(explanation.plot(output=1))
    with pytest.raises(InputError, match='target="all"'):
        explained(samples(2, 5)).plot(output=1)


def test_a_grid_has_one_scale_a_line() -> None:
    x = samples(3, 8, 8)
    both = {"ablation": explained(x), "twice": replace(explained(x), attributions=2 * explained(x).attributions)}
    figure = plots.grid(both, samples=2)
    bars = [axes for axes in figure.axes if list(axes.get_yticks()) == [-1, 0, 1]]
    ends = [float(axes.get_yticklabels()[2].get_text()) for axes in bars]
    assert ends[1] == pytest.approx(2 * ends[0], rel=0.01)
    assert len(figure.axes) == 2 + 2 * (2 + 1)  # the images, and two lines with a bar each
    assert "ablation" in texts(figure)
    with pytest.raises(InputError, match="at least one"):
        plots.grid({})
    with pytest.raises(InputError, match="as many"):
        plots.grid({"a": explained(samples(2, 3)), "b": explained(samples(1, 3))})


# --- what must not be hidden, or get in the way ------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 4), (2, 8, 8), (2, 200)])
def test_nan_is_refused_or_hatched(shape: tuple[int, ...]) -> None:
    explanation = explained(samples(*shape))
    scores = np.array(explanation.attributions)
    scores[0].flat[1] = np.nan
    scores[0].flat[2] = np.inf
    explanation = replace(explanation, attributions=scores)
    with pytest.raises(NonFiniteError, match="sample 0"):
        explanation.plot()
    figure = explanation.plot(allow_nonfinite=True)
    figure.canvas.draw()
    hatched = [a for axes in figure.axes for a in (*axes.patches, *axes.collections) if a.get_hatch()]
    assert hatched
    assert explanation._repr_html_()


def test_nan_tokens() -> None:
    scores = np.array([[np.nan, 1.0, -1.0, 0.0]])
    result = words(1, scores)
    with pytest.raises(NonFiniteError):
        plots.tokens_html(result)
    (page,) = plots.tokens_html(result, allow_nonfinite=True)
    assert "nonfinite" in page
    result.plot(allow_nonfinite=True).canvas.draw()


def test_pictures_leave_pyplot_alone(tmp_path: Path) -> None:
    code = (
        "import numpy as np, sys\n"
        "from explainers import Explainer\n"
        "found = Explainer.compile(lambda x: x.sum(1), 'feature_ablation').explanation(np.ones((2, 3)))\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import matplotlib\n"
        "before = dict(matplotlib.rcParams)\n"
        "found.plot().savefig('one.png'); found._repr_html_(); found.to_html()\n"
        "assert 'matplotlib.pyplot' not in sys.modules and dict(matplotlib.rcParams) == before\n"
    )
    environment = {**os.environ, "MPLBACKEND": "Agg"}  # without a set backend, reading rcParams imports pyplot
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=tmp_path, env=environment)


def test_without_matplotlib_the_extra_is_named() -> None:
    code = (
        "import numpy as np, sys\n"
        "sys.modules['matplotlib'] = None\n"
        "from explainers import Explainer, errors\n"
        "found = Explainer.compile(lambda x: x.sum(1), 'feature_ablation').explanation(np.ones((2, 3)))\n"
        "try: found.plot()\n"
        "except errors.BackendMissing as error: print(error)\n"
        "print(found._repr_html_())\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.count("pip install 'explainers[plots]'") == 1
    assert "<table>" in process.stdout  # the notebook's part still has its numbers


def test_inputs_are_kept_without_a_copy() -> None:
    x = samples(2, 5)
    explanation = explained(x)
    assert explanation.inputs["x" if "x" in explanation.inputs else next(iter(explanation.inputs))] is x
    plain = Explanation(x, x, None, np.ones_like(x), None, None, np.ones(2, int), methods.Gradient())
    assert plain.inputs == {}
    plain.plot("bars").canvas.draw()


# --- pages ------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags and texts; tags must close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        assert tag != "script"
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_needs_nothing_else(tmp_path: Path) -> None:
    explanation = explained(samples(3, 6), methods.ShapleySampling(3))
    text = explanation.to_html(tmp_path / "page.html", samples=2, classes=["cat", "dog"])
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == text
    page = Page(text)
    assert len(page.images) == 2
    for image in page.images:
        assert (image["src"] or "").startswith("data:image/png;base64,")
        assert re.search(r"sample \d, target dog: output .* largest at \d", image["alt"] or "")
    assert not re.search(r"https?:|src=\"(?!data:)|<link|url\(", text)
    for said in ("2 of 3 samples", "ShapleySampling(permutations=3", "completeness gap", "evaluations", "target dog"):
        assert said in page.text
    assert "color-scheme: light dark" in text
    assert "Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text


def test_a_page_says_each_thing_once() -> None:
    """The pictures have no titles of their own, and the sample itself is drawn once."""
    explanation = explained(samples(2, 8, 8))
    assert Page(explanation.to_html()).text.count("Sample 1") == 1
    view = View()
    line = [(resolve("auto", panel, view), panel) for panel in panels(explanation, view)[0]]
    assert not texts(layout.untitled(line, view, 1.0)).strip()
    assert len(Page(explanation.to_html()).images) == 4


def test_hostile_names_are_escaped_and_drawn() -> None:
    names = [HOSTILE, "$\\frac{$", "a" * 500]
    explanation = explained(samples(1, 3))
    explanation.plot(names=names, classes=["a", HOSTILE]).canvas.draw()
    Page(explanation.to_html(names=names, classes=["a", HOSTILE]))
    plots.grid({HOSTILE: explanation}, classes=["a", HOSTILE]).canvas.draw()
    spoken = words()
    spoken.plot(names=names).canvas.draw()
    page = Page(spoken.to_html(names=names))
    assert "alert('$x^{2$')" in page.text
    evil = replace(
        explanation, given={HOSTILE: explanation.inputs[next(iter(explanation.inputs))]}, attributed=(HOSTILE,)
    )
    Page(evil.to_html())


def test_tokens_in_html_and_in_a_terminal() -> None:
    result = words(1, np.array([[1.0, -0.5, 0.0, 0.25]]))
    names = {0: "good\x1b[31m", 1: "bad", 2: "so"}
    (html,) = plots.tokens_html(result, names=names)
    assert html.count("<span") == 4
    assert html.count("negative") == 1
    assert f"rgba(178,24,43,{tokens.STRONGEST:.3f})" in html
    (plain,) = plots.tokens_text(result, names=names, colour=False)
    assert plain == "good[31m++ bad- so good[31m+"
    (coloured,) = plots.tokens_text(result, names=names)
    assert "\x1b[48;2;178;24;43m" in coloured
    assert "\x1b[31m" not in coloured


def test_padding_is_left_out() -> None:
    result = words(1, np.array([[1.0, -0.5, 0.0, 0.0]]))
    (html,) = plots.tokens_html(result, names=[["good", "bad", "", ""]])
    assert html.count("<span") == 2


def test_notebooks_show_a_picture_with_words_and_a_table() -> None:
    page = Page(explained(samples(2, 5))._repr_html_())
    assert len(page.images) == 1
    assert "feature_ablation" in (page.images[0]["alt"] or "")
    assert "evaluations" in page.text
    assert "neither first nor last" in Page(explained(samples(2, 7, 8, 9))._repr_html_()).text
    assert "0 samples" in explained(samples(0, 5))._repr_html_()
    assert Page(explained(samples(2, 5), target="all")._repr_html_()).images
    assert Page(explained(samples(2, 5)).plot()._repr_html_()).images  # type: ignore[attr-defined]


def test_no_panel_lies_outside_its_figure() -> None:
    explanation = explained(samples(5, 3))
    for figure in (explanation.plot(), explanation.plot(samples=1), plots.grid({"a": explanation, "b": explanation})):
        for axes in figure.axes:
            box = axes.get_position()
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= 1
            assert box.y1 <= 1
    assert explanation.plot().get_size_inches()[0] - 1 <= layout.WIDTH


# --- heatmaps of tokens ----------------------------------------------------------------------


def test_a_heatmap_has_a_row_for_each_output_token() -> None:
    table = np.tril(samples(3, 6).astype(float), 3)
    columns, rows = ["The", " cat", "$x^{2$", HOSTILE, " s", "at"], [" s", "at", "\n"]
    figure = heatmap.figure(table, columns, rows, np.array([-1.0, -2.5, -0.25]), title="lrp", split=4)
    figure.canvas.draw()
    shown = texts(figure)
    for label in ("The", "·cat", "⏎", "−2.5", "log p", "lrp"):
        assert label in shown
    cells = figure.axes[0].images[0].get_array()
    assert cells.shape[:2] == (3, 6)
    grey = np.all(np.isclose(cells[..., :3], 0.91), axis=-1)
    assert grey.tolist() == [[column >= 4 + row for column in range(6)] for row in range(3)]
    red, blue = cells[..., 0], cells[..., 2]
    assert (np.where(grey, 1, (red - blue) * table) >= 0).all()
    assert "3 output tokens to 6 tokens by lrp" in figure.alt


def test_a_heatmap_shows_what_is_not_finite_only_when_asked() -> None:
    table = np.array([[1.0, np.nan]])
    with pytest.raises(NonFiniteError, match="output token 0 to column 1"):
        heatmap.figure(table, ["a", "b"], ["c"], np.zeros(1), title="lrp", split=2)
    figure = heatmap.figure(table, ["a", "b"], ["c"], np.zeros(1), title="lrp", split=2, allow_nonfinite=True)
    assert any(patch.get_hatch() for patch in figure.axes[0].patches)
    wide = heatmap.figure(np.ones((1, 900)), ["word"] * 900, ["c"], np.zeros(1), title="lrp", split=900)
    assert max(wide.get_size_inches()) < 50


# --- many samples -------------------------------------------------------------------------------


def dots(figure: Any) -> list[Any]:
    """The positions of the dots of each row of a beeswarm, (N, 2)."""
    return [np.asarray(collection.get_offsets()) for collection in figure.axes[0].collections]


def test_beeswarm_shows_every_sample_of_the_largest_features_in_order() -> None:
    x = samples(300, 20)
    explanation = explained(x)
    figure = plots.beeswarm(explanation, top=5, names=[f"gene {i}" for i in range(20)])
    scores = explanation.attributions
    means = abs(scores).mean(axis=0)
    order = np.argsort(-means)
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == [f"gene {i}" for i in order[:5]]
    for place, (feature, drawn) in enumerate(zip(order, dots(figure), strict=False)):
        np.testing.assert_allclose(drawn[:, 0], scores[:, feature], rtol=1e-6)
        assert (abs(drawn[:, 1] - place) <= 0.4).all()
        assert len(np.unique(np.round(drawn, 6), axis=0)) == 300
    assert "and 15 more features" in texts(figure)
    assert "300 samples" in texts(figure)
    weights = np.random.default_rng(0).normal(size=(2, 20))[1]
    wanted = "high" if weights[order[0]] > 0 else "low"
    assert f"gene {order[0]}: mean absolute attribution" in figure.alt
    assert f"larger for {wanted} values" in figure.alt.split(";")[0]


def test_beeswarm_colours_values_by_rank() -> None:
    values = np.array([5.0, 1e6, -3.0, 5.0, 7.0])
    np.testing.assert_allclose(swarm._ranks(values), [0.375, 1, 0, 0.375, 0.75])
    np.testing.assert_array_equal(swarm._ranks(np.array([2, 2, 9, 2])), [0, 0, 1, 0])
    assert swarm._ranks(np.array(["a", "b"], object)) is None
    assert swarm._ranks(np.ones(4)) is None


def test_beeswarm_dots_at_one_place_lie_side_by_side() -> None:
    found = swarm.offsets(np.zeros(1000), 1.0)
    assert len(np.unique(found)) == 1000
    assert abs(found).max() <= swarm.SPREAD
    np.testing.assert_allclose(swarm.offsets(np.array([-1.0, 0, 1.0]), 1.0), 0)


def test_beeswarm_of_other_inputs() -> None:
    scores = samples(6, 3)
    scores[2, 1] = np.nan
    explanation = replace(explained(samples(6, 3)), attributions=scores)
    with pytest.raises(NonFiniteError, match="sample 2"):
        plots.beeswarm(explanation)
    assert [len(row) for row in dots(plots.beeswarm(explanation, allow_nonfinite=True))].count(5) == 1
    assert len(dots(plots.beeswarm(explanation, samples=2, allow_nonfinite=True))[0]) == 2
    assert "(0,1)" in texts(plots.beeswarm(explained(samples(5, 2, 2))))
    two = replace(explanation, attributions=(samples(6, 3), samples(6, 2)), attributed=("a", "b"))
    with pytest.raises(InputError, match="choose it with input="):
        plots.beeswarm(two)
    assert len(dots(plots.beeswarm(two, input="b"))) == 2
    with pytest.raises(UnknownNameError):
        plots.beeswarm(two, input="c")
