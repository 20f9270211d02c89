"""The page to browse explanations, in Chromium: what is shown, links, keys, and that nothing leaves the page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, Explanation, methods, plots
from explainers.errors import InputError, NonFiniteError, UnknownNameError

pytest.importorskip("matplotlib")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
HOSTILE = "</script><script>document.title='taken'</script><img src=http://example.com/x onerror=alert(1)>\"'&"
COUNT = 12


def explained(x: Any, method: str | methods.Method = "feature_ablation", target: Any = 1) -> Explanation:
    """An explanation of a model with three outputs, each a weighted sum of the features."""
    weights = np.random.default_rng(0).normal(size=(x.shape[1], 3))
    explain = Explainer.compile(lambda rows: rows @ weights, method, inputs=x)
    return explain.explanation(x, target=target)


X = np.random.default_rng(1).normal(size=(COUNT, 5))
ABLATION = [explained(X, target=target) for target in range(3)]
SHAPLEY = explained(X, methods.ExactShapley(), "all")
BOTH = {"ablation": ABLATION, "shapley": SHAPLEY}


def number(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


# --- without a browser ------------------------------------------------------------------------


def cells(text: str) -> list[tuple[str, str, str]]:
    """The sample, method and target of each figure, in their order."""
    found = []
    for section in text.split("<section ")[1:]:
        sample = re.match(r'data-sample="(\d+)"', section)
        assert sample
        found += [
            (sample[1], *pair) for pair in re.findall(r'<figure data-method="(\d+)" data-target="(\d+)"', section)
        ]
    return found


def test_every_sample_method_and_target_has_a_cell(tmp_path: Path) -> None:
    text = plots.browser(BOTH, tmp_path / "page.html", samples=[3, 0], classes=["cat", "dog", "owl"])
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == text
    assert cells(text) == [(s, m, t) for s in "30" for t in "012" for m in "01"]
    assert re.findall(r"<option value=\"\d\">(\w+)", text) == ["cat", "dog", "owl"]
    assert re.findall(r'<img src="(.{22})', text) == ["data:image/png;base64,"] * 12
    assert not re.search(r"https?:|<link", text)


def test_targets_may_have_names_or_belong_to_the_samples() -> None:
    own = explained(X, target=np.arange(COUNT) % 3)
    text = plots.browser({"ablation": {"its class": own, "the second": ABLATION[1]}}, samples=3)
    assert re.findall(r"<option value=\"\d\">([\w ]+)", text) == ["its class", "the second"]
    assert re.findall(r"<dt>target</dt><dd>(\d)", text) == ["0", "1", "1", "1", "2", "1"]
    assert "each sample&#x27;s own</option>" in plots.browser({"ablation": own}, samples=1)
    assert plots.browser({"shapley": SHAPLEY}, samples=1, output=2).count("<option") == 1


def test_a_sum_is_of_all_attributions() -> None:
    for kind in ("bars", "waterfall"):
        text = plots.browser({"shapley": SHAPLEY}, samples=[4], output=0, kind=kind)
        assert f"<dt>sum of attributions</dt><dd>{number(SHAPLEY.attributions[0][4].sum())}</dd>" in text
    groups = explained(X, methods.ShapleySampling(4, groups=[0, 0, 1, 1, 1]), 1)
    assert groups.completeness_gap is not None
    assert groups.baseline_outputs is not None
    change = groups.outputs[0, 1] - groups.baseline_outputs[0, 1] + groups.completeness_gap[0]
    assert f"<dt>sum of attributions</dt><dd>{number(change)}</dd>" in plots.browser({"s": groups}, samples=1)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        plots.browser({})
    with pytest.raises(InputError, match="'a' has no explanations"):
        plots.browser({"a": []})
    with pytest.raises(InputError, match="dict of them by target; got ndarray"):
        plots.browser({"a": [X]})  # type: ignore[list-item]
    with pytest.raises(InputError, match="two explanations of 'a' have the target '1'"):
        plots.browser({"a": [ABLATION[1], ABLATION[1]]})
    with pytest.raises(InputError, match="'b' has no explanation of the target '0', '2', and 'a' has"):
        plots.browser({"a": ABLATION, "b": ABLATION[1]})
    with pytest.raises(InputError, match="has 12 samples, and 'b', target '1' has 7"):
        plots.browser({"a": ABLATION[1], "b": explained(X[:7])})
    with pytest.raises(InputError, match="not the same samples"):
        plots.browser({"a": ABLATION[1], "b": explained(X[::-1].copy())})
    with pytest.raises(InputError, match="no samples"):
        plots.browser({"a": explained(X[:0])})
    with pytest.raises(UnknownNameError, match="sample"):
        plots.browser(BOTH, sample=2)


def test_numbers_that_are_not_finite_are_refused_or_hatched() -> None:
    scores = np.array(ABLATION[1].attributions)
    scores[2, 0] = np.nan
    wrong = replace(ABLATION[1], attributions=scores)
    with pytest.raises(NonFiniteError, match="'ablation', target '1': the attribution of sample 2"):
        plots.browser({"ablation": wrong})
    assert "<dd>nan</dd>" in plots.browser({"ablation": wrong}, samples=[2], allow_nonfinite=True)


def test_a_page_has_a_largest_size() -> None:
    many = explained(np.zeros((700, 2)), target="all")
    with pytest.raises(InputError, match=r"2,100 pictures, and a page has at most 2,000\. .*samples=666"):
        plots.browser({"ablation": many})


# --- in Chromium --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Any]:
    """Opens a file; afterwards, nothing was requested but files, and nothing was written to the console."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    requests: list[str] = []
    complaints: list[str] = []

    def opened(path: Path, address: str = "") -> Any:
        tab = context.new_page()
        tab.set_default_timeout(10_000)
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        tab.goto(path.as_uri() + address)
        return tab

    yield opened
    context.close()
    assert all(url.startswith(("file:", "data:image/png;base64,")) for url in requests)
    assert not complaints


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("browser") / "page.html"
    plots.browser(BOTH, path, samples=[0, 1, 2, 5], classes=["cat", "dog", "owl"])
    return path


def shown(tab: Any) -> list[dict[str, str]]:
    """Of each visible figure its caption, its numbers, and what its picture is said to show."""
    assert tab.locator("section:visible").count() == 1
    assert not tab.get_by_text("all samples follow").is_visible()
    found = []
    for figure in tab.locator("figure[data-method]:visible").all():
        names, values = figure.locator("dt").all_inner_texts(), figure.locator("dd").all_inner_texts()
        alt = figure.locator("img").get_attribute("alt")
        caption = figure.locator("figcaption").inner_text()
        found.append({"method": caption, "alt": alt, **dict(zip(names, values, strict=True))})
    return found


def check_cells(tab: Any, sample: int, target: int, names: list[str]) -> None:
    """The visible figures have the numbers of this sample and target."""
    found = shown(tab)
    assert [figure["method"] for figure in found] == names
    for figure in found:
        scores = SHAPLEY.attributions[target][sample]
        if figure["method"] == "ablation":
            scores = ABLATION[target].attributions[sample]
        assert figure["sum of attributions"] == number(scores.sum())
        assert figure["output"] == number(SHAPLEY.outputs[sample, target])
        assert figure["target"] == ["cat", "dog", "owl"][target]
        largest = abs(scores).argmax()
        assert f"sample {sample}, target {figure['target']}" in figure["alt"]
        assert f"largest at {largest}: {number(scores[largest])}" in figure["alt"]


def test_a_choice_changes_what_is_shown_and_the_link_restores_it(visit: Any, saved: Path) -> None:
    tab = visit(saved)
    check_cells(tab, 0, 0, ["ablation", "shapley"])
    tab.get_by_role("button", name="next").click()
    check_cells(tab, 1, 0, ["ablation", "shapley"])
    tab.get_by_label("target").select_option("owl")
    check_cells(tab, 1, 2, ["ablation", "shapley"])
    tab.get_by_label("ablation").uncheck()
    check_cells(tab, 1, 2, ["shapley"])
    assert tab.locator("[data-key]:visible").count() == 1
    address = tab.url.partition("#")[2]
    assert address == "sample=1&target=owl&method=shapley"
    again = visit(saved, f"#{address}")
    check_cells(again, 1, 2, ["shapley"])
    assert not again.get_by_label("ablation").is_checked()
    assert again.get_by_label("target").locator("option:checked").inner_text() == "owl"
    again.evaluate("location.hash = 'sample=5&target=dog&method=ablation'")
    again.wait_for_selector('section[data-sample="5"]:visible')
    check_cells(again, 5, 1, ["ablation"])
    unknown = visit(saved, "#sample=99&target=cow&method=none")
    check_cells(unknown, 0, 0, ["ablation", "shapley"])


def test_one_method_stays_chosen(visit: Any, saved: Path) -> None:
    tab = visit(saved)
    tab.get_by_label("ablation").uncheck()
    tab.get_by_label("shapley").click()
    check_cells(tab, 0, 0, ["shapley"])


def test_arrow_keys_and_the_number_go_to_a_sample(visit: Any, saved: Path) -> None:
    tab = visit(saved)
    tab.keyboard.press("ArrowLeft")
    check_cells(tab, 0, 0, ["ablation", "shapley"])
    for sample in (1, 2, 5, 5):
        tab.keyboard.press("ArrowRight")
        check_cells(tab, sample, 0, ["ablation", "shapley"])
    assert tab.get_by_role("button", name="next").is_disabled()
    tab.keyboard.press("ArrowLeft")
    assert tab.locator("output").inner_text() == "3 of 4"
    number_field = tab.get_by_role("spinbutton", name="sample")
    number_field.fill("1")
    number_field.press("ArrowRight")  # moves the cursor
    number_field.press("Enter")
    check_cells(tab, 1, 0, ["ablation", "shapley"])
    number_field.fill("4")
    number_field.press("Enter")
    assert "no sample of this number" in number_field.evaluate("field => field.validationMessage")
    check_cells(tab, 1, 0, ["ablation", "shapley"])


def test_all_is_reached_by_the_tab_key(visit: Any, saved: Path) -> None:
    tab = visit(saved)
    names = []
    for _ in range(5):
        tab.keyboard.press("Tab")
        names.append(tab.evaluate("document.activeElement.labels?.[0]?.innerText ?? document.activeElement.innerText"))
    assert [name.split()[0] for name in names] == ["sample", "next", "target", "ablation", "shapley"]


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window(chromium: Any, saved: Path, tmp_path: Path, width: int, scheme: str) -> None:
    long = tmp_path / "long.html"
    names = ["a name without a space " + "x" * 300, "b" * 200]
    plots.browser(dict(zip(names, BOTH.values(), strict=True)), long, samples=2, classes=["c" * 300, "d", "e"])
    pages = {"browser": saved, "long names": long, "page": tmp_path / "page.html"}
    ABLATION[0].to_html(pages["page"])
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab = context.new_page()
    for name, path in pages.items():
        tab.goto(path.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, name
        background = tab.evaluate("getComputedStyle(document.querySelector('h1')).color")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) > 382) == (scheme == "dark")
    context.close()


def test_hostile_names_are_text(visit: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    names = [HOSTILE, "$x^{2$", "a", "b", "c"]
    plots.browser({HOSTILE: ABLATION, "b": SHAPLEY}, page, samples=2, names=names, classes=["c", HOSTILE, "&amp;"])
    tab = visit(page)
    tab.get_by_label("target").select_option(index=1)
    assert [figure["method"] for figure in shown(tab)] == [HOSTILE, "b"]
    assert {figure["target"] for figure in shown(tab)} == {HOSTILE}
    assert tab.title().startswith("Attributions of 2 samples by </script>")
    again = visit(page, "#" + tab.url.partition("#")[2])
    assert [figure["target"] for figure in shown(again)] == [HOSTILE] * 2


def test_without_scripts_everything_is_shown(chromium: Any, saved: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(saved.as_uri())
    assert tab.locator("figure[data-method]:visible").count() == 4 * 2 * 3
    assert tab.get_by_text("all samples follow").is_visible()
    assert not tab.locator("form").is_visible()
    context.close()
