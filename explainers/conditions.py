"""Conditions on sizes, as text that a file may hold: evaluated by this module alone, never by Python's ``eval``."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

LARGEST = 10_000  # bits of a power: sizes have 40


def _power(base: Any, exponent: Any) -> Any:
    """base ** exponent. ValueError for numbers that would fill the memory, as in 9**9**9."""
    if isinstance(base, int) and exponent > 0 and base.bit_length() * exponent > LARGEST:
        raise ValueError(f"a power of more than {LARGEST} bits is no size")
    return base**exponent


OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power, ast.USub: operator.neg,
    ast.UAdd: operator.pos, ast.Not: operator.not_, ast.Invert: operator.not_, ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_, ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Eq": operator.eq, "Ne": operator.ne, "Mod": operator.mod, "PythonMod": operator.mod, "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv, "IntTrueDiv": operator.truediv, "FloatTrueDiv": operator.truediv, "Max": max,
    "Min": min, "ToFloat": float, "TruncToInt": int, "Not": operator.not_, "And": lambda *parts: all(parts),
    "Or": lambda *parts: any(parts),
}  # fmt: skip
LONGEST = 2000  # characters of a condition
BATCHES = (2, 3, 4, 5, 7, 8, 16, 33, 1000)  # numbers of rows for which conditions on them must hold


def known(condition: str) -> bool:
    """Whether the condition is made of the operations above."""
    try:
        _compiled(condition)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two where it is nested too deep
        return False
    return True


def holds(condition: str, sizes: Mapping[str, int]) -> bool:
    """Whether the condition holds for the sizes, and for any number of rows (``batch``) above 1.

    torch.export takes a symbolic size for other than 1, and asks so of what is computed from it.

    Raises
    ------
    ValueError: an operation that is not known.
    """
    batches = {*BATCHES, *sizes.values()} - {0, 1} if "batch" in condition else {2}
    return all(bool(_compiled(condition)({**sizes, "batch": batch})) for batch in batches)


@lru_cache(maxsize=1024)
def _compiled(condition: str) -> Callable[[Mapping[str, int]], Any]:
    if len(condition) > LONGEST:
        raise ValueError("the condition is too long")
    return _of(ast.parse(condition, mode="eval").body)


def _of(node: ast.AST) -> Callable[[Mapping[str, int]], Any]:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        value = node.value
        return lambda sizes: value
    if isinstance(node, ast.Name):
        name = node.id
        return {"True": lambda sizes: True, "False": lambda sizes: False}.get(name, lambda sizes: sizes[name])
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return _apply(OPERATORS[type(node.op)], node.left, node.right)
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return _apply(OPERATORS[type(node.op)], node.operand)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        return _apply(OPERATORS[type(node.ops[0])], node.left, node.comparators[0])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        return _apply(FUNCTIONS[node.func.id], *node.args)
    raise ValueError(f"{ast.unparse(node)} is no operation on sizes")


def _apply(function: Callable[..., Any], *operands: ast.AST) -> Callable[[Mapping[str, int]], Any]:
    parts = [_of(operand) for operand in operands]
    return lambda sizes: function(*(part(sizes) for part in parts))
