"""The array functions that programs, methods and rules are written over: one namespace for each backend.

A backend brings a module, or an object, with all of them; ``tests/contract/test_ops.py`` compares each with numpy.
Arrays are the backend's own. R is the number of rows, U of samples; ``…`` stands for the axes of one sample. Where an
array (``like``) gives a size, that size may be unknown while a program is traced. No function modifies its operands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .graph import Node

Array = Any
Message = Array | None
Pullback = Callable[[Sequence[Message]], Sequence[Message]]


class Operations(Protocol):
    """The model's own operations."""

    @property
    def no_derivative(self) -> type[Exception]:
        """The exceptions that a pullback raises where an operation has no derivative."""

    def evaluate(self, node: Node, arrays: Sequence[Array], /) -> tuple[Array, ...]:
        """Run the node's operation on the values of its inputs; all its outputs."""

    def evaluate_window(self, node: Node, arrays: Sequence[Array], shape: tuple[int, ...], /) -> tuple[Array, ...]:
        """Run the node on windows of its operands, which hold its padding. ``shape``: of a window of its result."""

    def vjp(self, node: Node, arrays: Sequence[Array], places: Sequence[int], /) -> tuple[tuple[Array, ...], Pullback]:
        """Run it, and return its outputs with its vector–Jacobian product.

        The pullback takes a message for each output (None: nothing arrived) and returns one for each input at
        ``places``.
        """

    def input_gradients(
        self, function: Callable[..., tuple[Array, Array]], arrays: Sequence[Array], /
    ) -> tuple[Array, Sequence[Array]]:
        """For a function that returns (y, z): z, and the derivative of Σ y towards each of the arrays.

        The function may use ``vjp``, whose messages are differentiated as well.
        """

    def winners(
        self, node: Node, x: Sequence[Array], y: Sequence[Array], y_r: Sequence[Array], from_x: Array, share: Array, /
    ) -> list[Array] | None:
        """``share`` routed to the entries that a max-pool picked at x where ``from_x``, else at the reference.

        None for operations that do not report which entries they picked.
        """


class Weights(Protocol):
    """Derivatives towards the model's weights, of each sample apart."""

    def weight_factors(self, node: Node, arrays: Sequence[Array], message: Array, /) -> tuple[Array, Array, int]:
        """The derivative towards the weight of a dense or conv map as a product of two matrices for each sample.

        Of a dense map (…, L) and (…, R), with the leading axes of the message; of a convolution (N, T, G·L) and
        (N, T, G·R), with its G groups. The derivative of the weight of group g is Σ_t left[t, g]ᵀ·right[t, g].
        """

    def weight_gradients(
        self, node: Node, arrays: Sequence[Array], place: int, axes: Sequence[int | None], message: Array, axis: int, /
    ) -> Array:  # fmt: skip
        """The derivative of each sample towards the operand at ``place``, (N, …), for any operation.

        axes: of the samples in each operand; axis: in the result, the node's first, and in ``message``.
        """

    def pull_each(self, node: Node, arrays: Sequence[Array], place: int, messages: Sequence[Message], /) -> Array:
        """N messages at each result of an operation on weights, (N, …) or None, towards the operand at ``place``."""

    def run_each(
        self, node: Node, arrays: Sequence[Array], places: Sequence[int], models: int, /
    ) -> tuple[tuple[Array, ...], Pullback] | None:
        """The node with weights of several models, (M, …), each on its own of M equal parts of the samples.

        The results and the vector–Jacobian product towards ``places``; None if there is nothing faster than one by one.
        """

    def split_batch(self, array: Array, axis: int, before: int, behind: int, /) -> Array:
        """An axis that holds before·N·behind entries as three."""

    def one_hot(self, ids: Array, count: int, like: Array, /) -> Array:
        """(…) → (…, count), in the dtype of ``like``."""


class Elementwise(Protocol):
    """Elementwise functions; operands broadcast."""

    def where(self, condition: Array, x: Array, y: Array, /) -> Array:
        """``x`` where ``condition``, else ``y``."""

    def select(self, condition: Array, x: Array, y: Array, /) -> Array:
        """Like ``where``, but ``x`` may be overwritten."""

    def equal(self, x: Array, y: Array, /) -> Array: ...

    def absolute(self, array: Array, /) -> Array: ...

    def signum(self, array: Array, /) -> Array:
        """−1, 0 or 1."""

    def sign(self, array: Array, /) -> Array:
        """1 where ``array`` ≥ 0, else −1."""

    def exp(self, array: Array, /) -> Array: ...

    def expm1(self, array: Array, /) -> Array:
        """exp(x) − 1, exact near 0."""

    def log(self, array: Array, /) -> Array: ...

    def maximum(self, x: Array, y: Array, /) -> Array: ...

    def minimum(self, x: Array, y: Array, /) -> Array: ...

    def at_least(self, array: Array, number: float, /) -> Array:
        """``number`` where ``array`` is smaller."""

    def difference(self, x: Array, r: Array, /) -> Array:
        """x − r; 0 where both are the same infinity, as in a mask."""

    def midway(self, x: Array, r: Array, /) -> Array:
        """(x + r)/2."""

    def minus_product(self, array: Array, a: Array, b: Array, /) -> Array:
        """array − a·b."""

    def zeroed(self, array: Array, where: Array, /) -> Array:
        """``array`` with 0 where ``where`` holds, NaN and infinity included."""

    def finite(self, array: Array, /) -> Array:
        """``array`` with 0 in place of NaN and infinity."""

    def normal(self, uniform: Array, /) -> Array:
        """Standard normal numbers from uniform ones in (0, 1), by the inverse distribution function."""

    def bits_and(self, array: Array, other: Any, /) -> Array:
        """Bitwise and of integers; the next two also take integers."""

    def bits_xor(self, array: Array, other: Any, /) -> Array: ...

    def shift_right(self, array: Array, count: Any, /) -> Array: ...


class RowSums(Protocol):
    """The functions that compute a method's output weights, in kernels and in the completeness check."""

    def row_sum(self, array: Array, /) -> Array:
        """(R, …) → (R,)."""

    def row_mean(self, array: Array, /) -> Array:
        """Mean over the last axis, kept with size 1; 0 for one number per row, (R,)."""


class Reductions(RowSums, Protocol):
    """Sums and maxima."""

    def total(self, array: Array, /) -> Array:
        """The sum of all entries, (1,)."""

    def sum_axis(self, array: Array, axis: int, /) -> Array:
        """The sum along ``axis``, which is dropped."""

    def reduce_sum(self, array: Array, axis: Any, /) -> Array:
        """The sum along one or several axes, kept with size 1."""

    def reduce_max(self, array: Array, axis: Any, /) -> Array:
        """The largest entry along one or several axes, kept with size 1."""

    def sum_like(self, array: Array, like: Array, /) -> Array:
        """``array`` summed over the axes along which ``like`` was broadcast to it; has the shape of ``like``."""

    def row_max(self, array: Array, /) -> Array:
        """(R, …) → (R,)."""

    def row_min(self, array: Array, /) -> Array:
        """(R, …) → (R,)."""

    def one_hot_max(self, array: Array, /) -> Array:
        """(R, …): 1 at each row's first largest entry, else 0; 1 for one number per row."""

    def segment_sum(self, array: Array, index: Array, like: Array, /) -> Array:
        """(R, …) → (U, …): the sum of the rows that share an ``index``, (R,); U is the number of rows of ``like``."""


class Shapes(Protocol):
    """Indexing, reshaping and repeating."""

    def take(self, array: Array, index: Array, /) -> Array:
        """The rows ``index``, (R,), of ``array``."""

    def take_columns(self, array: Array, index: Array, /) -> Array:
        """(R, N), index (K,) → (R, K)."""

    def gather_rows(self, array: Array, index: Array, axis: int, /) -> Array:
        """For each row its entries ``index``, (R, K), along ``axis`` of a sample."""

    def patches(
        self, base: Array, sample: Array, axes: Sequence[int], starts: Sequence[Array], widths: Sequence[int],
        margins: Sequence[tuple[int, int]], fill: float, window: Array | None, at: Sequence[Array], /,
    ) -> Array:  # fmt: skip
        """For each row a box of its sample, with the row's own ``window`` in it.

        The box of row r has ``widths`` places from ``starts`` (R,) on along ``axes`` (in ascending order) of
        ``base[sample[r]]``, and is whole along the others. It may reach ``margins`` places before and behind the axis,
        where it holds ``fill``. ``window`` (R, …) replaces the places from ``at`` (R,) on; what lies outside of the
        box is dropped. (U, …) → (R, …).
        """

    def unpack_bits(self, array: Array, count: int, /) -> Array:
        """(R, B) bytes → (R, count): the first bits of each row, the highest of a byte first, as booleans."""

    def rows_equal(self, row: Array, array: Array, /) -> Array:
        """(R,), (…) → (R, …): whether each row's number equals each entry of ``array``."""

    def scale_rows(self, array: Array, factor: Array, /) -> Array:
        """(R, …) times (R,): one factor per row."""

    def reshape(self, array: Array, sizes: tuple[int, ...], /) -> Array:
        """``array`` with these sizes, one of which may be −1."""

    def reshape_rows(self, array: Array, shape: tuple[int, ...], /) -> Array:
        """(R, …) → R samples of ``shape``."""

    def sample_shape(self, array: Array, /) -> tuple[int, ...]:
        """The shape without its first axis."""

    def stack(self, arrays: Sequence[Array], /) -> Array:
        """Along a new last axis."""

    def concat(self, arrays: Sequence[Array], axis: int, /) -> Array:
        """Along an axis that they have."""

    def move_axis(self, array: Array, source: int, destination: int, /) -> Array: ...

    def insert_axis(self, array: Array, axis: int, /) -> Array:
        """With a new axis of size 1."""

    def split_axis(
        self, array: Array, axis: int, first: Array, first_axis: int, second: Array, second_axis: int, /
    ) -> Array:
        """An axis of size U·B as two: U is the size of ``first`` along its axis, B that of ``second``."""

    def join_axis(self, array: Array, axis: int, /) -> Array:
        """The axes ``axis`` and ``axis + 1`` as one."""

    def expand_axis(self, array: Array, axis: int, like: Array, like_axis: int, /) -> Array:
        """An axis of size 1 expanded to the size of ``like`` along ``like_axis``; no change if it has that size."""

    def broadcast_like(self, array: Array, like: Array, /) -> Array:
        """``array`` at the shape of ``like``."""

    def matmul(self, a: Array, b: Array, /) -> Array:
        """The matrix product over the last two axes."""


class Making(Protocol):
    """Creating arrays, and dtypes."""

    def zeros_like(self, array: Array, /) -> Array: ...

    def ones_like(self, array: Array, /) -> Array: ...

    def arange(self, size: int, like: Array, /) -> Array:
        """0 … size − 1 as integers, on the device of ``like``."""

    def row_numbers(self, like: Array, /) -> Array:
        """0 … U − 1 as integers, (U,), for U rows of ``like``."""

    def blank(self, array: Array, axis: int, first: Array, second: Array, /) -> Array:
        """Arbitrary numbers in the shape of ``array``, but of size U·B at ``axis``: rows of ``first`` × ``second``."""

    def cast(self, array: Array, dtype: str, /) -> Array: ...

    def cast_like(self, array: Array, like: Array, /) -> Array:
        """``array`` in the dtype of ``like``."""

    def wide(self, array: Array, /) -> str:
        """The dtype for accumulations over ``array``: float64 for float64, else float32."""

    def epsilon(self, array: Array, /) -> float:
        """The distance from 1 to the next number of the array's dtype."""


class Ops(Operations, Weights, Elementwise, Reductions, Shapes, Making, Protocol):
    """The complete array namespace."""
