"""The role of each ATen operation. An operation that is not listed is opaque."""

from __future__ import annotations

from collections.abc import Sequence

from explainers.graph import Function, Registered, Role

LINEAR = """
    linear addmm matmul mm mv bmm baddbmm addbmm tensordot einsum convolution conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d _native_batch_norm_legit_no_training batch_norm add sub rsub neg mean sum
    cumsum view _unsafe_view reshape flatten unflatten squeeze unsqueeze transpose t permute expand expand_as repeat
    repeat_interleave clone contiguous alias detach _to_copy to type_as slice select narrow split split_with_sizes
    chunk tensor_split unbind cat concat stack hstack vstack flip roll constant_pad_nd pad reflection_pad1d
    reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d avg_pool1d avg_pool2d
    avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool3d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d
    upsample_linear1d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d pixel_shuffle
    pixel_unshuffle channel_shuffle masked_fill where diagonal diag_embed movedim moveaxis swapaxes mT mH
    numpy_T dropout slice_scatter select_scatter index_add index_copy index_fill scatter scatter_add tril triu
    unfold im2col col2im getitem view_as reshape_as squeeze_copy as_strided broadcast_tensors broadcast_to
"""
UNIVARIATE = """
    relu leaky_relu elu selu celu gelu silu mish hardtanh hardsigmoid hardswish relu6 sigmoid tanh softplus
    softsign log_sigmoid log_sigmoid_forward exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal abs sin cos
    tan asin acos atan sinh cosh asinh acosh atanh erf erfc erfinv clamp clamp_min clamp_max clip pow square
    threshold hardshrink softshrink tanhshrink sign sgn floor ceil round trunc frac logit prelu _prelu_kernel
    nan_to_num xlogy remainder fmod
"""
PRODUCT = "mul div true_divide addcmul lerp"
MAX_POOL = "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d " \
    "adaptive_max_pool2d adaptive_max_pool3d"  # fmt: skip
REDUCE_MAX = "max min amax amin maximum minimum fmax fmin"
GATHER = "embedding index gather index_select take take_along_dim"
COMPOSITE = """
    softmax _softmax _safe_softmax log_softmax _log_softmax special_softmax layer_norm native_layer_norm group_norm
    native_group_norm instance_norm rms_norm _fused_rms_norm scaled_dot_product_attention lstm gru rnn_tanh
    rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell var std var_mean std_mean norm linalg_vector_norm
    logsumexp glu cosine_similarity prod
"""
MATRIX_PRODUCTS = {
    "linear", "addmm", "matmul", "mm", "mv", "bmm", "baddbmm", "addbmm", "tensordot", "einsum", "convolution", "conv1d",
    "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
}  # fmt: skip
CONVOLUTIONS = {name for name in MATRIX_PRODUCTS if name.startswith("conv")}
QUOTIENTS = {"div", "true_divide"}
COPY = """
    view _unsafe_view reshape flatten unflatten squeeze unsqueeze transpose t permute expand expand_as repeat
    repeat_interleave clone contiguous alias _to_copy to type_as slice select narrow split split_with_sizes chunk
    tensor_split unbind cat concat stack hstack vstack flip roll constant_pad_nd pad reflection_pad1d
    reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d pixel_shuffle
    pixel_unshuffle channel_shuffle masked_fill where diagonal diag_embed movedim moveaxis swapaxes mT mH numpy_T
    dropout slice_scatter select_scatter index_copy index_fill scatter tril triu unfold im2col getitem view_as
    reshape_as squeeze_copy as_strided broadcast_tensors broadcast_to
"""  # each output entry is an entry of an input or a constant
COPIES = set(COPY.split())
RELABELS = {
    "view",
    "_unsafe_view",
    "reshape",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "transpose",
    "t",
    "permute",
    "clone",
    "_to_copy",
    "to",
    "contiguous",
    "alias",
    "movedim",
    "moveaxis",
    "swapaxes",
    "mT",
    "numpy_T",
    "squeeze_copy",
    "view_as",
    "reshape_as",
}  # the entries of one operand in another order
REPEATS = {"expand", "expand_as", "broadcast_to", "repeat"}  # the first operand, over and over along axes
SCALES = {"mul", "div", "true_divide", "neg"}
OF_TWO = {"pow", "atan2", "hypot", "logaddexp", "fmod", "remainder", "xlogy"}
ARITHMETIC = {
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "abs", "pow", "square",
    "mul", "div", "true_divide",
}  # fmt: skip
SHAPE_ONLY = {
    "sym_size", "sym_numel", "sym_stride", "size", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros",
    "new_ones", "new_full", "new_empty", "rand_like",
}  # fmt: skip
ELEMENTWISE = {
    *UNIVARIATE.split(), "add", "sub", "rsub", "neg", "mul", "div", "true_divide", "addcmul", "addcdiv", "lerp",
    "where", "masked_fill", "clone", "contiguous", "alias", "detach", "_to_copy", "to", "type_as", "dropout",
    "maximum", "minimum", "fmax", "fmin", "eq", "ne", "gt", "ge", "lt", "le", "logical_and", "logical_or",
    "logical_not", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_not", "isnan", "isinf", "isfinite", "signbit",
    "zeros_like", "ones_like", "full_like", "floor_divide", "atan2", "logaddexp",
}  # fmt: skip
ALIASES = {
    "multiply": "mul", "divide": "div", "subtract": "sub", "negative": "neg", "absolute": "abs", "fix": "trunc",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
    "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne",
    "concatenate": "cat", "unsafe_chunk": "chunk", "unsafe_split": "split", "arctan2": "atan2",
    "unsafe_split_with_sizes": "split_with_sizes",
}  # fmt: skip
ADDITIVE = {"linear": 2, "addmm": 0, "baddbmm": 0, "addbmm": 0, **dict.fromkeys(CONVOLUTIONS, 2)}  # place of the bias

TABLE: dict[str, Role] = {
    name: role
    for role, names in (
        (Role.LINEAR, LINEAR), (Role.UNIVARIATE, UNIVARIATE), (Role.PRODUCT, PRODUCT), (Role.MAX_POOL, MAX_POOL),
        (Role.REDUCE_MAX, REDUCE_MAX), (Role.GATHER, GATHER), (Role.COMPOSITE, COMPOSITE),
    )
    for name in names.split()
}  # fmt: skip

REGISTERED = Registered(TABLE)

RANDOM = {
    "rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "bernoulli", "multinomial", "normal",
    "native_dropout", "uniform", "rrelu_with_noise", "poisson", "randperm", "exponential",
}  # fmt: skip
NAMES = {
    "relu": Function.RELU, "sigmoid": Function.SIGMOID, "detach": Function.STOP_GRADIENT,
    "embedding": Function.EMBEDDING,
    "log_softmax": Function.LOG_SOFTMAX, "_log_softmax": Function.LOG_SOFTMAX, "logsumexp": Function.LOG_SUM_EXP,
    **dict.fromkeys(("softmax", "_softmax", "_safe_softmax", "special_softmax"), Function.SOFTMAX),
}  # fmt: skip


def listed(name: str) -> Role:
    """Its role in the table or as registered, before its operands are considered."""
    own = REGISTERED.get(name)
    return TABLE.get(name, Role.OPAQUE) if own is None else own[0]


def contracted(name: str, places: Sequence[int], keywords: int) -> int | None:
    """The axis of the weight that a product of the operand at ``places`` with it sums over; None for other products."""
    first = {"linear": 0, "addmm": 1, "mm": 0, "matmul": 0}.get(name)
    if keywords or list(places) != [first]:
        return None
    return 1 if name == "linear" else 0


def elementwise(name: str) -> bool:
    """Whether each output entry depends only on the input entries at the same place."""
    own = REGISTERED.get(name)
    return name in ELEMENTWISE if own is None else own[2]


def role(name: str, places: Sequence[int], distinct: int) -> Role:
    """Role of the operation ``name`` whose tensor operands at ``places`` depend on the model's inputs.

    ``distinct``: the number of distinct values among those. x·x is a square, c/x a reciprocal.
    """
    found = listed(name)
    if found is Role.PRODUCT and distinct == 1:
        bends = len(places) > 1 or (name in QUOTIENTS and places[0] == 1)
        return Role.UNIVARIATE if bends else Role.LINEAR
    if name in ("maximum", "minimum", "fmax", "fmin") and distinct == 1:
        return Role.UNIVARIATE
    if found is Role.UNIVARIATE and distinct > 1:
        return Role.OPAQUE
    if name in MATRIX_PRODUCTS:
        factors = [place for place in places if ADDITIVE.get(name) != place]
        if len(factors) > 1:
            return Role.BILINEAR if len(factors) == 2 else Role.OPAQUE
    return found


def function(name: str, found: Role, places: Sequence[int]) -> Function:
    """The framework-independent function of the operation, where rules distinguish it."""
    own = REGISTERED.get(name)
    if own is not None:
        return own[1] if found is own[0] else Function.NONE
    if name in OF_TWO and len(places) == 2 and found is Role.OPAQUE:
        return Function.BIVARIATE
    if name in NAMES:
        return NAMES[name]
    if name in SHAPE_ONLY:
        return Function.SHAPE
    if found is Role.PRODUCT and name in QUOTIENTS:
        return Function.QUOTIENT
    if found is Role.REDUCE_MAX and name in ("min", "amin", "minimum", "fmin"):
        return Function.MINIMUM
    if found is Role.LINEAR and name in MATRIX_PRODUCTS and places != [ADDITIVE.get(name)]:
        return Function.CONV if name in CONVOLUTIONS else Function.DENSE
    if found is Role.UNIVARIATE and name in ARITHMETIC:
        return Function.ARITHMETIC
    if found is Role.LINEAR and name in COPIES:
        return Function.COPY
    if found is Role.LINEAR and name in SCALES:
        return Function.SCALE
    return Function.ADD if found is Role.LINEAR and name == "add" else Function.NONE
