"""Targets, baselines and signatures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explainers import References, Signature, TensorSpec
from explainers.errors import BaselineError, InputError, TargetError
from explainers.spec import largest, resolve_baseline, resolve_target

SPEC = TensorSpec((None, 2, 3), "float32", "x")


def test_every_form_of_one_index_gives_the_same_mask() -> None:
    expected = np.zeros((4, 5), "float32")
    expected[:, 2] = 1
    for target in (2, np.int64(2), (2,), [2, 2, 2, 2], np.full(4, 2), np.full((4, 1), 2), expected[0], expected):
        assert np.array_equal(resolve_target(target, (5,), 4).mask(0, 4, "float32"), expected), target


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=9), st.data())
def test_one_index_for_each_sample(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    resolved = resolve_target(pairs, (3, 4), len(pairs))
    start = data.draw(st.integers(0, len(pairs) - 1))
    mask = resolved.mask(start, len(pairs), "float64")
    assert mask.shape == (len(pairs) - start, 3, 4)
    assert mask.sum() == len(pairs) - start
    assert all(mask[i][pair] == 1 for i, pair in enumerate(pairs[start:]))


def test_largest_is_the_first_largest_entry() -> None:
    outputs = np.array([[[1.0, 9.0], [9.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]]])
    mask = largest(outputs).mask(0, 2, "float32")
    assert mask[0].tolist() == [[0, 1], [0, 0]]
    assert mask[1].tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (None, "no target given.*shape \\(5,\\).*3 samples"),
        (5, "target 5 at position 0 is out of range"),
        (-1, "target -1 at position 0 is out of range"),
        ([0, 7, 1], "target 7 at position 1 is out of range"),
        ([0, 1], "2 targets for 3 samples"),
        ([0.0, 1.5, 2.0], "position 1: 1.5"),
        ([0.0, np.nan, 2.0], "position 1: nan"),
        (np.array([0, np.nan, 0, 0, 0]), "not finite at \\(1,\\)"),
        ((0, 1), "does not index an output of 1 axes"),
        ("min", "unknown target 'min'"),
        ("all", "forward-only"),
        ([[1, 2], [3]], "ragged|shape"),
    ],
)
def test_bad_targets_say_where_and_what_fits(target: object, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        resolve_target(target, (5,), 3)


def test_no_target_for_one_scalar() -> None:
    assert resolve_target(None, (), 3).mask(0, 3, "float32").tolist() == [1, 1, 1]
    assert resolve_target(None, (1,), 2).mask(0, 2, "float32").tolist() == [[1], [1]]


def test_forms_of_baselines() -> None:
    shared = resolve_baseline(0.5, [SPEC], 4, list)
    assert shared.tables[0].shape == (1, 2, 3)
    assert not shared.per_sample
    own = resolve_baseline(np.zeros((4, 2, 3)), [SPEC], 4, list)
    assert own.per_sample
    drawn = resolve_baseline(References(np.ones((7, 2, 3))), [SPEC], 4, list)
    assert drawn.distribution
    assert len(drawn) == 7
    called = resolve_baseline(lambda batch: batch[::-1], [SPEC], 4, lambda: np.arange(24.0).reshape(4, 2, 3))
    assert called.tables[0][0, 0, 0] == 18


@pytest.mark.parametrize(
    ("baseline", "says"),
    [
        (np.zeros((3, 2)), "shape \\(3, 2\\).*one sample \\(2, 3\\)"),
        (np.full((2, 3), np.nan), "NaN"),
        ("zero", "dtype"),
        (References(np.zeros((2, 3))), "References of shape \\(2, 3\\)"),
        ((0.0, 0.0), "2 baselines for 1"),
        ({"y": 0.0}, "attributed inputs are \\['x'\\]"),
    ],
)
def test_bad_baselines(baseline: object, says: str) -> None:
    with pytest.raises(BaselineError, match=says):
        resolve_baseline(baseline, [SPEC], 4, list)


def test_binding_inputs() -> None:
    signature = Signature((TensorSpec((None, 2), "float32", "a"), TensorSpec((None, 3), "float32", "b")), 1)
    assert signature.bind((1, 2), {}) == [1, 2]
    assert signature.bind((1,), {"b": 2}) == [1, 2]
    for args, kwargs, says in [
        ((1, 2, 3), {}, "3 positional"), ((1,), {}, "no value for \\['b'\\]"), ((1,), {"a": 2, "b": 3}, "twice"),
        ((1, 2), {"c": 3}, "unknown inputs \\['c'\\]"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=says):
            signature.bind(args, kwargs)


def test_axes_that_vary() -> None:
    assert str(TensorSpec((None, None, 3, None), name="x")) == "x: float32[batch, length, 3, length_2]"
    spec = TensorSpec((None, None, 3, "width"), name="x")
    assert str(spec) == "x: float32[batch, length, 3, width]"
    assert spec.declared == [-1, -1, 3, -1]
    assert spec.fits((7, 3, 1)) and not spec.fits((7, 4, 1)) and not spec.fits((7, 3))  # noqa: PT018
    signature = Signature((spec, TensorSpec((None, None), name="y")), 2)
    sizes = signature.sizes([np.zeros((2, 7, 3, 4)), np.zeros((2, 7))])
    assert sizes == {"length": 7, "width": 4}
    assert signature.at(sizes).inputs[0].sample_shape == (7, 3, 4)
    assert spec.sample_shape != signature.at({"length": 11, "width": 11}).inputs[0].sample_shape  # not the example's
    with pytest.raises(InputError, match="'length' has the size 7 in input 'x' and 8 in 'y'"):
        signature.sizes([np.zeros((2, 7, 3, 4)), np.zeros((2, 8))])
