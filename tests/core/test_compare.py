"""Measures of agreement, exports, bad input, and where two records diverge. The models are functions of numpy."""

from __future__ import annotations

import inspect
import io
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from explainers import Candidate, Comparison, Explainer, References, compare, errors, methods
from explainers.compare import agreement, candidates, processes
from explainers.compare.locating import Parting, Place, Record, _by_layers, _by_nodes

X = np.random.default_rng(0).normal(size=(5, 4))
W = np.random.default_rng(1).normal(size=(4, 3))


def linear(x: np.ndarray) -> np.ndarray:
    return x @ W


def bent(x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ W)


def ablation(model: Any = linear, name: str | None = None, **options: Any) -> Candidate:
    return Candidate(model, "feature_ablation", name=name, **options)


def compared(*given: Any, **options: Any) -> Comparison:
    return compare(list(given), X, target=1, **{"seconds": 0, **options})


# --- the name of the function and of its package ---------------------------------------------

CALL = "assert explainers.compare([ablation], x, target=0, seconds=0)"


@pytest.mark.parametrize(
    "lines",
    [
        ("import explainers.compare.peers", CALL, "explainers.compare.peers.CAPTUM"),
        (CALL, "import explainers.compare.peers", CALL, "explainers.compare.peers.CAPTUM"),
        ("from explainers.compare import compare", "assert compare([ablation], x, target=0, seconds=0)", CALL),
        (CALL, "from explainers import compare", "assert compare([ablation], x, target=0, seconds=0)"),
    ],
)
def test_compare_is_callable_before_and_after_its_modules_are_imported(lines: tuple[str, ...]) -> None:
    head = (
        "import numpy as np", "import explainers", "from explainers.explainer.api import Explainer",
        "x = np.ones((1, 2))", "ablation = Explainer.compile(lambda x: x, 'feature_ablation', inputs=x)",
    )  # fmt: skip
    subprocess.run([sys.executable, "-c", "\n".join((*head, *lines))], check=True, timeout=100)


def test_compare_has_the_signature_and_the_docstring_of_its_function() -> None:
    assert next(iter(inspect.signature(compare).parameters)) == "candidates"
    assert "Raises" in (compare.__doc__ or "")


# --- measures --------------------------------------------------------------------------------


def naive_ranks(x: np.ndarray) -> list[float]:
    return [sum(o < v for o in x) + (sum(o == v for o in x) + 1) / 2 for v in x]


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_pearson_of_ranks(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = (np.round(generator.normal(size=9), 1 if seed % 2 else 8) for _ in range(2))
    assert agreement.spearman(x, y) == pytest.approx(np.corrcoef(naive_ranks(x), naive_ranks(y))[0, 1])


def test_measures_of_constants() -> None:
    zero, one = np.zeros(4), np.arange(4.0)
    assert agreement.spearman(zero, zero) == agreement.cosine(zero, zero) == 1
    assert agreement.spearman(zero, one) == agreement.cosine(zero, one) == 0
    assert agreement.overlap(np.array([3.0, -5, 1, 0]), np.array([0, -5.0, 3, 1]), k=2) == 0.5


def agreement_of(x: Any, y: Any) -> agreement.Pair:
    """The pair of two candidates with these attributions, (N, entries)."""

    def outcome(name: str, array: Any) -> Any:
        measured = SimpleNamespace(name=name)
        return SimpleNamespace(measurement=measured, attributions=(np.asarray(array),), same_method=lambda other: True)

    return agreement._pair(outcome("x", x), outcome("y", y), top=min(3, np.shape(x)[1]))


NOISE = np.random.default_rng(5).normal(size=(3, 40)) * 1e-9
SPARSE = np.pad(np.random.default_rng(6).normal(size=(3, 6)), ((0, 0), (0, 34)))  # most entries are 0
DENSE = np.random.default_rng(7).normal(size=(3, 40))


@pytest.mark.parametrize(
    "x",
    [
        SPARSE, DENSE, np.full((3, 40), 0.25), np.repeat([[1.0, 2.0, 3.0, 4.0]] * 3, 10, axis=1), np.ones((3, 1)),
        np.zeros((3, 40)), np.vstack([DENSE[:2], np.zeros((1, 40))]),
    ],
    ids=["sparse", "dense", "constant", "steps", "one feature", "zeros", "a sample of zeros"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ties_that_rounding_breaks_are_ties(x: np.ndarray, dtype: str) -> None:
    noise = NOISE[:, : x.shape[1]] * (1 if x.any() else 0)
    for other in (x + noise, x * (1 + 1e-7), x.copy()):
        pair = agreement_of(x.astype(dtype), other.astype(dtype))
        assert pair.spearman == pair.spearman_median == pair.overlap == 1
        assert pair.cosine == pytest.approx(1, abs=1e-12)


def test_ties_within_one_of_two_scales() -> None:
    """Where one method is constant, the other differs only by rounding; the rank correlation is that of the rest."""
    x, y = np.full(40, 0.2), np.full(40, 50.0)
    x[:3], y[:3] = (1, 2, 3), (100, 300, 200)
    pair = agreement_of([x], [y + NOISE[0] * 50])
    expected = np.corrcoef(naive_ranks(x), naive_ranks(y))[0, 1]
    assert pair.spearman == pytest.approx(expected)
    assert expected < 1


def test_what_is_no_rounding_is_seen() -> None:
    swapped = SPARSE.copy()
    ends = [SPARSE[1].argmin(), SPARSE[1].argmax()]
    swapped[1, ends] = swapped[1, ends[::-1]]
    expected = np.corrcoef(naive_ranks(SPARSE[1]), naive_ranks(swapped[1]))[0, 1]
    pair = agreement_of(SPARSE, swapped + NOISE)
    assert pair.spearman == pytest.approx(expected)
    assert expected < 0.999 < pair.spearman_median
    small = np.linspace(0, 1, 40)[None] * 1e-3 + 1  # a thousandth of the size is more than rounding
    assert agreement_of(small, small[:, ::-1]).spearman == pytest.approx(-1)
    assert agreement_of(DENSE, -DENSE).spearman == pytest.approx(-1)
    assert agreement_of(DENSE, DENSE[:, ::-1]).overlap < 1


@pytest.mark.parametrize("seed", range(4))
def test_levels_are_no_wider_than_rounding(seed: int) -> None:
    """Compare with a loop that assigns the entries to levels one by one, in ascending order."""
    x = np.round(np.random.default_rng(seed).normal(size=200), 2)
    wanted, lowest, level = {}, -np.inf, 0
    for value in sorted(set(x)):
        if value - lowest > 0.0502:
            lowest, level = value, level + 1
        wanted[value] = level
    assert agreement.levels(x, 0.0502).tolist() == [wanted[value] for value in x]
    assert agreement.levels(np.zeros(0), 0.0502).tolist() == []


def test_a_pair_has_the_worst_sample_and_the_median() -> None:
    comparison = compared(ablation(name="a"), ablation(bent, name="b"), top=2)
    a, b = (comparison.attributions[name] for name in "ab")
    relative = abs(a - b).max(1) / np.maximum(abs(a).max(1), abs(b).max(1))
    (pair,) = comparison.pairs
    assert pair.relative == pytest.approx(relative.max())
    assert pair.relative_median == pytest.approx(np.median(relative))
    assert pair.sample == relative.argmax()
    assert pair.absolute == pytest.approx(abs(a - b).max())
    assert comparison.worst == comparison.pair("b", "a") == pair
    assert not comparison.agrees()
    assert comparison.agrees(10)
    assert comparison.matrix().tolist() == [[0, pair.relative], [pair.relative, 0]]


def test_only_pairs_of_one_method_are_judged_where_there_are_any() -> None:
    same, other = ablation(name="a"), Candidate(linear, methods.Occlusion(window=2), name="c")
    assert compared(same, ablation(name="b"), other).agrees()
    assert [p.same_method for p in compared(same, ablation(name="b"), other).pairs] == [True, False, False]
    assert not compared(same, other).agrees()


def test_what_is_measured() -> None:
    comparison = compared(ablation(), ablation(), seconds=0.01)
    names = [row.name for row in comparison.candidates]
    assert names == ["feature_ablation numpy/eager", "feature_ablation numpy/eager 2"]
    for row in comparison.candidates:
        assert row.one_ms > 0 < row.all_ms
        assert row.rows_per_s > 0
        assert row.traces == 1
        assert row.compile_s >= 0
        assert row.gap is None
    assert compared(Candidate(linear, "shapley_sampling")).candidates[0].gap < 1e-9
    assert compared(ablation()).candidates[0].one_ms is None


def test_every_kind_of_candidate_by_name() -> None:
    explain = Explainer.compile(linear, "feature_ablation", inputs=X)
    base = References(X[::-1][:, None], per_sample=True)
    comparison = compare(
        {"mine": explain, "other": ablation()}, X, target=[0, 1, 2, 0, 1], baseline=base, seconds=0.001
    )
    assert list(comparison.attributions) == ["mine", "other"]
    np.testing.assert_array_equal(comparison.attributions["mine"], explain(X, target=[0, 1, 2, 0, 1], baseline=base))


def test_one_candidate_is_only_measured() -> None:
    comparison = compared(ablation())
    assert comparison.worst is None
    assert comparison.agrees()
    assert "1 candidate" in str(comparison)
    with pytest.raises(errors.InputError, match="only one candidate"):
        comparison.locate()


# --- exports ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compared(
        ablation(name="<script>alert(1)</script>"), ablation(bent, name="b|c & d"), ablation(), seconds=0.001
    )


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_is_safe_and_needs_nothing(comparison: Comparison) -> None:
    text = comparison.to_html()
    page = Page()
    page.feed(text)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not [value for name, value in page.attributes if name in ("src", "href")]
    assert "@import" not in text
    assert "url(" not in text
    assert page.tags.count("table") == 2
    assert {"agrees", "differs"} <= set(page.texts)  # verdicts are not shown by colour alone
    (label,) = [value for name, value in page.attributes if name == "aria-label"]
    assert "<script>alert(1)</script> and b|c & d:" in str(label)
    ET.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])


def test_json_frame_and_markdown(comparison: Comparison) -> None:
    data = json.loads(comparison.to_json())
    assert data["agrees"] is False
    assert len(data["candidates"]) == len(data["pairs"]) == 3
    assert data["candidates"][0]["gap"] is None
    lines = comparison.to_markdown().splitlines()
    assert "b\\|c & d" in lines[5]
    pandas = pytest.importorskip("pandas")
    frame = comparison.to_dataframe()
    assert list(frame.columns) == list(agreement.Pair.__dataclass_fields__)
    assert isinstance(comparison.candidates.to_dataframe(), pandas.DataFrame)


def test_it_prints(comparison: Comparison) -> None:
    assert str(comparison) == repr(comparison)
    rich = pytest.importorskip("rich.console")
    console = rich.Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(comparison)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("differs" in line for line in lines)
    assert "…" not in capture.get()


def test_it_is_drawn(comparison: Comparison, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = comparison.plot()
    figure.savefig(tmp_path / "page.png")
    assert len(figure.axes) == 3


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "expected"),
    [
        (lambda: compare([], X), errors.InputError, "no candidates"),
        (lambda: compare({}, X), errors.InputError, "no candidates"),
        (lambda: compare(3, X), errors.InputError, "list or a dict"),
        (lambda: compare([3], X), errors.InputError, "Candidate\\(model, method\\)"),
        (lambda: compare(["captum:DeepLift"], X), errors.InputError, "needs a model"),
        (lambda: compare(["absent.explainer"], X), OSError, "absent"),
        (lambda: compare([ablation(name="a"), ablation(name="a")], X), errors.InputError, "two candidates"),
        (lambda: compare([ablation()], X[:0], target=0), errors.InputError, "no samples"),
        (lambda: compare([ablation()], "x"), errors.InputError, "not an array of numbers"),
        (lambda: compare([ablation()], (X, X[:2])), errors.InputError, "as many each"),
        (lambda: compared(ablation(), seconds=-1), errors.InputError, "seconds"),
        (lambda: compared(ablation(), tolerance=-1), errors.InputError, "tolerance"),
        (lambda: compared(ablation(), ablation(), top=9), errors.InputError, "top=9"),
        (lambda: compare([ablation(name="a")], X, target=7), errors.TargetError, "candidate 'a'"),
        (lambda: compared(ablation(lambda x: x @ W * np.nan)), errors.NonFiniteError, "candidate .*NaN"),
        (lambda: compared(ablation(), ablation(lambda x: x @ W[:, :2])), errors.InputError, "different shapes"),
        (lambda: compared(Candidate(linear, "saliency")), errors.UnsupportedOperation, "candidate"),
        (lambda: compared(ablation(), baseline=References(X)).pair("a", "b"), errors.UnknownNameError, "'a'"),
        (lambda: compared(ablation()).locate("a"), errors.InputError, "two candidates, or none"),
        (lambda: Candidate(linear, "deeplifft"), errors.UnknownNameError, "deeplift"),
        (lambda: Candidate(linear, "deeplift", process=True), errors.InputError, "separate process"),
        (lambda: Candidate("nowhere", "deeplift"), errors.InputError, "no model 'nowhere'"),
        (lambda: compared(Candidate("absent:model", "saliency")), errors.InputError, "no module 'absent'"),
    ],
)  # fmt: skip
def test_bad_input_is_told(call: Any, kind: type[Exception], expected: str) -> None:
    with pytest.raises(kind, match=expected):
        call()


def test_values_pass_through_files_and_nothing_else(tmp_path: Path) -> None:
    question = candidates.Question({"a": X}, [0, 1], References(X), np.arange(5), 0.5)
    candidate = Candidate("absent:model", methods.Occlusion(window=(1, 2)), "torch", name="n", baseline=X[0])
    processes.write(tmp_path, "q", processes._question("measure", [candidate], question), "it")
    task, (back,), again = processes.question_in(processes.read(tmp_path, "q"))
    assert (task, back.method, back.name, back.in_other_process) == ("measure", candidate.method, "n", False)
    np.testing.assert_array_equal(back.options["baseline"], X[0])
    np.testing.assert_array_equal(again.baseline.array, X)
    np.testing.assert_array_equal(again.inputs["a"], X)
    with pytest.raises(errors.InputError, match=r"another process.*is code"):
        processes.ask("measure", [Candidate("absent:model", "gradient", baseline=lambda x: x)], question, 1)


def test_some_samples_keep_what_is_each_ones() -> None:
    question = candidates.Question.of((X, X[:, :2]), [0, 1, 2, 1, 0], (X[0], X[:, :2]), 3, 0.0).subset([4, 1], (3,))
    assert question.target.tolist() == [0, 1]
    assert question.baseline[0].shape == (4,)
    np.testing.assert_array_equal(question.baseline[1], X[[4, 1], :2])
    assert (len(question), question.seed) == (2, 3)


def test_a_mask_for_all_is_one_though_there_are_as_many_samples_as_outputs() -> None:
    mask = np.array([0.5, -1, 2])
    for target in (mask, mask.tolist(), np.tile(mask, (3, 1))):
        comparison = compare({"a": ablation(), "b": ablation()}, X[:3], target=target, seconds=0.01)
        np.testing.assert_allclose(comparison.attributions["a"], X[:3] * (W @ mask))
        assert comparison.candidates[0].one_ms


def test_integers_of_the_shape_of_two_output_axes_are_a_mask() -> None:
    weights = np.array([[1, 0, 2], [0, -1, 0]])
    question = candidates.Question.of(X[:2], weights, None, 0, 0.0)
    assert question.subset([1], (2, 3)).target is question.target
    assert question.subset([1], (4, 5, 6)).target.tolist() == [[0, -1, 0]]  # one index for each sample


# --- where they part -------------------------------------------------------------------------

NAMES = ("left", "right")


def record_of(ops: list[str], values: list[float], messages: list[float] | None = None, framework: str = "a") -> Record:
    """The record of a chain of nodes, each in its own layer."""
    places = []
    for i, op in enumerate(ops):
        users = ((f"{ops[i + 1]}_{i + 1}", ops[i + 1], f"l{i + 1}"),) if i + 1 < len(ops) else ()
        places.append(Place(f"{op}_{i}", op, f"l{i}" if i else "", (1,), users))
    arrays = tuple(np.full((2, 1), value) for value in values)
    passed = tuple(np.full((2, 1), m) for m in messages or [1.0] * len(ops))
    layers = {f"l{i}": i for i in range(1, len(ops))}
    return Record(framework, tuple(places), arrays, passed, (0,), layers)


OPS = ["in", "conv", "relu", "dense"]


@pytest.mark.parametrize(
    ("right", "kind", "layer"),
    [
        (record_of(OPS, [1, 2, 3, 4]), "", ""),
        (record_of(OPS, [1, 2, 3.1, 9]), "activations", "l2"),
        (record_of(OPS, [1, 2, 3, 4], [7, 7, 1, 1]), "messages", "l2"),
        (record_of(["in", "conv", "gelu", "dense"], [1, 2, 3.5, 5]), "structure", "l2"),
        (record_of(["in", "conv", "gelu", "dense"], [1, 2, 3, 4]), "", ""),
    ],
)
def test_nodes_part(right: Record, kind: str, layer: str) -> None:
    result = _by_nodes(NAMES, record_of(OPS, [1, 2, 3, 4]), right, 1e-4)
    assert (result.kind, result.layer) == (kind, layer)
    assert "'left' and 'right'" in str(result)


@pytest.mark.parametrize(
    ("right", "kind", "layer"),
    [
        (record_of(["i", "c", "r", "d"], [1, 2, 3, 4]), "", ""),
        (record_of(["i", "c", "r", "d"], [1, 2.1, 3.1, 9]), "activations", "l1"),
        (record_of(["i", "c", "r", "d"], [1, 2, 3, 4], [7, 1, 1, 1]), "messages", "l1"),
    ],
)
def test_layers_part(right: Record, kind: str, layer: str) -> None:
    result = _by_layers(NAMES, record_of(OPS, [1, 2, 3, 4]), right, 1e-4)
    assert (result.kind, result.layer, result.by) == (kind, layer, "layers")
    with pytest.raises(errors.InputError, match="no layer in common"):
        _by_layers(NAMES, right, record_of(["i"], [1]), 1e-4)


def test_every_parting_reads() -> None:
    for kind in ("activations", "structure", "messages", ""):
        assert str(Parting("a", "b", kind, "n", "op", "l")).startswith("'a' and 'b'")
