"""The array functions of every backend: all there, none that is not declared, each against plain numpy."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import ops as declared

BACKENDS = ("numpy", "torch", "tensorflow")
OF_THE_MODEL = {  # tests of each backend's trace, and of influence
    "no_derivative", "evaluate", "evaluate_window", "vjp", "winners", "weight_factors", "weight_gradients", "pull_each",
    "run_each", "input_gradients",
}  # fmt: skip
DECLARED = {
    name
    for cls in declared.Ops.__mro__
    if cls.__module__ == declared.__name__
    for name in vars(cls)
    if not name.startswith("_")
}
ROOT = Path(declared.__file__).parent


def namespace(backend: str) -> Any:
    if backend != "numpy":
        pytest.importorskip(backend)
    return importlib.import_module(f"explainers_{backend}.ops")


def own(backend: str, array: Any) -> Any:
    """A numpy array as the backend's; anything else as it is."""
    if not isinstance(array, np.ndarray) or backend == "numpy":
        return [own(backend, part) for part in array] if isinstance(array, list) else array
    if backend == "torch":
        import torch

        return torch.from_numpy(array.copy())
    import tensorflow as tf

    return tf.constant(array)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_has_every_function(backend: str) -> None:
    missing = sorted(name for name in DECLARED if not hasattr(namespace(backend), name))
    assert not missing
    for name in DECLARED - {"no_derivative"}:
        wanted, found = getattr(declared.Ops, name), getattr(namespace(backend), name)
        if inspect.isfunction(found) and found.__module__.startswith("explainers_"):  # not the framework's own
            count = len(inspect.signature(wanted).parameters) - 1
            assert len(inspect.signature(found).parameters) == count, name


def test_programs_use_what_is_declared() -> None:
    used = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            owner = node.value if isinstance(node, ast.Attribute) else None  # ops.x, or run.ops.x
            if "ops" in (getattr(owner, "id", None), getattr(owner, "attr", None)):
                used.add(node.attr)
    assert used == DECLARED


def test_each_has_a_case() -> None:
    assert set(CASES) == DECLARED - OF_THE_MODEL


RNG = np.random.default_rng(0)
A = RNG.normal(size=(3, 4, 2)).astype(np.float32)
B = RNG.normal(size=(3, 4, 2)).astype(np.float32)
A[0, 0, 0], B[0, 0, 0], A[1, 1, 1] = 0.0, 0.0, B[1, 1, 1]
ODD = np.array([[math.nan, math.inf, -math.inf, 2.0], [0.0, -1.0, 3.0, math.inf]], np.float32)
ROWS = np.array([0.5, -2.0, 3.0], np.float32)
INDEX = np.array([2, 0, 2, 1], np.int64)
BYTES = np.array([[0b10110000, 0b01000000], [0b00000001, 0b11000000]], np.uint8)
INTEGERS = np.array([5, 12, 1 << 40], np.int64)
PICK = np.array([[3, 0], [1, 1], [2, 3]], np.int64)
TIED = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 1.0]], np.float32)
FRAMED = np.pad(A, ((0, 0), (1, 2), (0, 0)), constant_values=9.0)  # A with one place before and two behind
S2 = np.array([0, 2, 2, 1], np.int64)
FIRST = np.array([-1, 2, 0, 3], np.int64)
BOXES = np.stack([FRAMED[s, f + 1 : f + 4] for s, f in zip(S2, FIRST, strict=True)])
OWN, PLACED = RNG.normal(size=(4, 2, 2)).astype(np.float32), BOXES.copy()
OWN_AT = np.array([-1, 3, 2, 1], np.int64)  # the last one lies before its box: dropped
PLACED[0, :2], PLACED[1, 1:], PLACED[2, 2:] = OWN[0], OWN[1], OWN[2, :1]
IMAGES = RNG.normal(size=(2, 4, 5, 3)).astype(np.float32)
CORNER = [np.array([1, 0, 2], np.int64), np.array([0, 3, 1], np.int64)]
CUT = np.stack([IMAGES[s, y : y + 2, x : x + 2] for s, y, x in zip([1, 0, 1], *CORNER, strict=True)])
SPOTS, CUT_WITH = RNG.normal(size=(3, 1, 1, 3)).astype(np.float32), CUT.copy()
CUT_WITH[:, 1, 1] = SPOTS[:, 0, 0]
U, N = np.zeros((3, 5), np.float32), np.zeros((2, 7), np.float32)
Case = tuple[tuple[Any, ...], Any]
CASES: dict[str, list[Case]] = {
    "where": [((A > 0, A, B), np.where(A > 0, A, B)), ((A[:, :1] > 0, A, B), np.where(A[:, :1] > 0, A, B))],
    "select": [((A > 0, A.copy(), B), np.where(A > 0, A, B))],
    "equal": [((A, B), A == B)],
    "absolute": [((A,), abs(A))],
    "signum": [((A,), np.sign(A))],
    "sign": [((A,), np.where(A < 0, -1, 1).astype(np.float32))],
    "exp": [((A,), np.exp(A))],
    "expm1": [((A * 1e-6,), np.expm1(A * 1e-6))],
    "log": [((abs(A) + 1,), np.log(abs(A) + 1))],
    "maximum": [((A, B), np.maximum(A, B))],
    "minimum": [((A, B), np.minimum(A, B))],
    "at_least": [((A, 0.25), np.maximum(A, np.float32(0.25)))],
    "difference": [((A, B), A - B), ((ODD[1:], ODD[1:]), np.zeros((1, 4), np.float32))],
    "midway": [((A, B), (A + B) / 2)],
    "minus_product": [((A, B, A), A - B * A)],
    "zeroed": [((ODD, ~np.isfinite(ODD)), np.where(np.isfinite(ODD), ODD, 0))],
    "finite": [((ODD,), np.where(np.isfinite(ODD), ODD, 0))],
    "normal": [
        ((np.array([0.5, 0.975, 0.1], np.float32),), np.array([0.0, 1.959964, -1.2815515], np.float32)),
    ],
    "bits_and": [((INTEGERS, 6), INTEGERS & 6)],
    "bits_xor": [((INTEGERS, 6), INTEGERS ^ 6), ((INTEGERS, INTEGERS[::-1].copy()), INTEGERS ^ INTEGERS[::-1])],
    "shift_right": [((INTEGERS, 2), INTEGERS >> 2)],
    "total": [((A,), A.sum(keepdims=True).reshape(1))],
    "sum_axis": [((A, 1), A.sum(1)), ((A, -1), A.sum(-1))],
    "reduce_sum": [((A, -1), A.sum(-1, keepdims=True)), ((A, (1, 2)), A.sum((1, 2), keepdims=True))],
    "reduce_max": [((A, -1), A.max(-1, keepdims=True)), ((A, (1, 2)), A.max((1, 2), keepdims=True))],
    "sum_like": [
        ((A, B[:1, :, :1]), A.sum((0, 2), keepdims=True)), ((A, B[0]), A.sum(0)), ((A, B), A),
        ((A, B[0, 0]), A.sum((0, 1))),
    ],
    "row_sum": [((A,), A.sum((1, 2))), ((ROWS,), ROWS)],
    "row_max": [((A,), A.max((1, 2))), ((ROWS,), ROWS)],
    "row_min": [((A,), A.min((1, 2))), ((ROWS,), ROWS)],
    "row_mean": [((A,), A.mean(-1, keepdims=True)), ((ROWS,), 0 * ROWS)],
    "one_hot_max": [((TIED,), np.array([[0, 1, 0], [1, 0, 0]], np.float32)), ((ROWS,), np.ones(3, np.float32))],
    "segment_sum": [((np.arange(8, dtype=np.float32).reshape(4, 2), INDEX, U),
                     np.array([[2, 3], [6, 7], [4, 6]], np.float32))],
    "take": [((A, INDEX), A[[2, 0, 2, 1]]), ((A[:1], np.array([0, 0])), np.concatenate([A[:1], A[:1]]))],
    "take_columns": [((A[:, :, 0].copy(), np.array([3, 0, 0])), A[:, [3, 0, 0], 0])],
    "gather_rows": [
        ((A, PICK, 0), np.stack([A[i, PICK[i]] for i in range(3)])),
        ((np.swapaxes(A, 1, 2).copy(), PICK, 1), np.stack([A[i, PICK[i]].T for i in range(3)])),
    ],
    "patches": [
        ((A, S2, [1], [FIRST], [3], [(1, 2)], 9.0, None, []), BOXES),
        ((A, S2, [1], [FIRST], [3], [(1, 2)], 9.0, OWN, [OWN_AT]), PLACED),
        ((IMAGES, np.array([1, 0, 1]), [1, 2], CORNER, [2, 2], [(0, 0), (0, 0)], 0.0, None, []), CUT),
        ((IMAGES, np.array([1, 0, 1]), [1, 2], CORNER, [2, 2], [(0, 0), (0, 0)], 0.0, SPOTS,
          [CORNER[0] + 1, CORNER[1] + 1]), CUT_WITH),
    ],
    "unpack_bits": [
        ((BYTES, 11), np.array([[1, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0]], bool)),
    ],
    "rows_equal": [((np.array([1, 4]), np.array([[4, 1, 1]])), np.array([[[0, 1, 1]], [[1, 0, 0]]], bool))],
    "scale_rows": [((A, ROWS), A * ROWS[:, None, None]), ((ROWS, ROWS), ROWS * ROWS)],
    "reshape_rows": [((A, (2, 4)), A.reshape(3, 2, 4)), ((np.zeros((3, 0), np.float32), (0, 2)), np.zeros((3, 0, 2)))],
    "sample_shape": [((A,), (4, 2)), ((ROWS,), ())],
    "stack": [(([A, B],), np.stack([A, B], -1))],
    "concat": [(([A, B], 0), np.concatenate([A, B])), (([A, B[:, :1]], 1), np.concatenate([A, B[:, :1]], 1))],
    "move_axis": [((A, 2, 0), np.moveaxis(A, 2, 0)), ((A, 0, 1), np.moveaxis(A, 0, 1)), ((A, 1, 1), A)],
    "insert_axis": [((A, 1), A[:, None]), ((A, 0), A[None])],
    "split_axis": [((np.arange(12.0).reshape(6, 2), 0, U, 0, N, 0), np.arange(12.0).reshape(3, 2, 2))],
    "join_axis": [((A, 0), A.reshape(12, 2)), ((A, 1), A.reshape(3, 8))],
    "expand_axis": [((A[:, :1], 1, U, 1), np.repeat(A[:, :1], 5, 1)), ((A, 0, U, 0), A)],
    "broadcast_like": [((B[:1, :, :1], A), np.broadcast_to(B[:1, :, :1], A.shape)), ((A, B), A)],
    "matmul": [((A, np.swapaxes(B, 1, 2).copy()), np.einsum("nij,nkj->nik", A, B))],
    "reshape": [((A, (2, -1)), A.reshape(2, 12))],
    "split_batch": [
        ((A, 1, 1, 2), A.reshape(3, 1, 2, 2, 2)), ((A, 0, 3, 1), A.reshape(3, 1, 1, 4, 2)),
        ((A[:1], 0, 1, 1), A[:1].reshape(1, 1, 1, 4, 2)),
    ],
    "one_hot": [((np.array([[1, 0, -5]]), 2, A), np.array([[[0, 1], [1, 0], [0, 0]]], np.float32))],
    "row_numbers": [((U,), np.arange(3))],
    "zeros_like": [((A,), 0 * A)],
    "ones_like": [((A,), 0 * A + 1)],
    "arange": [((4, A), np.arange(4))],
    "blank": [((A, 0, U, N), (6, 4, 2)), ((A, 1, U, N), (3, 6, 2))],  # shapes: the numbers may be any
    "cast": [((A, "float64"), A.astype(np.float64)), ((A > 0, "float32"), (A > 0).astype(np.float32))],
    "cast_like": [((A, B.astype(np.float16)), A.astype(np.float16))],
    "wide": [((A,), "float32"), ((A.astype(np.float64),), "float64"), ((A.astype(np.float16),), "float32")],
    "epsilon": [((A,), 2.0**-23), ((A.astype(np.float64),), 2.0**-52), ((A.astype(np.float16),), 2.0**-10)],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_numpy(backend: str, name: str) -> None:
    function: Callable[..., Any] = getattr(namespace(backend), name)
    for arguments, wanted in CASES[name]:
        copies = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        found = function(*(own(backend, argument) for argument in copies))
        if name == "blank":
            assert tuple(found.shape) == wanted
        elif isinstance(wanted, np.ndarray):
            found = np.asarray(found)
            assert found.shape == wanted.shape
            assert found.dtype.kind == wanted.dtype.kind
            assert wanted.dtype.kind != "f" or name in ("reshape_rows",) or found.dtype == wanted.dtype
            np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-6)
        else:
            assert found == wanted
        if name != "select":  # which may write over the rows that it was given
            for before, after in zip(arguments, copies, strict=True):
                if isinstance(before, np.ndarray):
                    np.testing.assert_array_equal(before, after)
