"""What each ATen operation is to a rule. An operation that is not listed is opaque."""

from __future__ import annotations

from explainers.graph import Role

LINEAR = """
    linear addmm matmul mm bmm einsum convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d _native_batch_norm_legit_no_training batch_norm add sub rsub neg mean sum cumsum
    view _unsafe_view reshape flatten unflatten squeeze unsqueeze transpose t permute expand repeat clone
    contiguous alias detach _to_copy to slice select narrow split split_with_sizes chunk unbind cat stack
    flip roll constant_pad_nd pad reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d
    adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d
    upsample_linear1d interpolate pixel_shuffle masked_fill where diagonal movedim mT dropout
    slice_scatter select_scatter index_add scatter_add tril triu unfold im2col col2im getitem
"""
UNIVARIATE = """
    relu leaky_relu elu selu celu gelu silu mish hardtanh hardsigmoid hardswish relu6 sigmoid tanh softplus
    softsign log_sigmoid exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal abs sin cos tan asin acos
    atan sinh cosh erf erfc clamp clamp_min clamp_max pow square threshold hardshrink softshrink tanhshrink
    sign floor ceil round trunc prelu _prelu_kernel
"""
PRODUCT = "mul div"
BILINEAR = ""  # matrix products of two active tensors, told apart below
MAX_POOL = "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d " \
    "adaptive_max_pool2d adaptive_max_pool3d"  # fmt: skip
REDUCE_MAX = "max min amax amin maximum minimum topk sort"
GATHER = "embedding index gather index_select take take_along_dim"
COMPOSITE = """
    softmax _softmax _safe_softmax log_softmax _log_softmax layer_norm native_layer_norm group_norm
    native_group_norm instance_norm rms_norm _fused_rms_norm scaled_dot_product_attention lstm gru rnn_tanh
    rnn_relu var std var_mean norm linalg_vector_norm logsumexp glu cosine_similarity prod
"""
PRODUCTS_OF_TWO = {"mul", "div"}
MATRIX_PRODUCTS = {"linear", "addmm", "matmul", "mm", "bmm", "einsum", "convolution", "conv1d", "conv2d", "conv3d"}

TABLE: dict[str, Role] = {
    name: role
    for role, names in (
        (Role.LINEAR, LINEAR), (Role.UNIVARIATE, UNIVARIATE), (Role.PRODUCT, PRODUCT), (Role.MAX_POOL, MAX_POOL),
        (Role.REDUCE_MAX, REDUCE_MAX), (Role.GATHER, GATHER), (Role.COMPOSITE, COMPOSITE),
    )
    for name in names.split()
}  # fmt: skip

RANDOM = {
    "rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "bernoulli", "multinomial", "normal",
    "native_dropout", "uniform", "rrelu_with_noise", "poisson", "randperm", "exponential",
}  # fmt: skip


def role(name: str, floating_operands: int, kind: str) -> tuple[Role, str]:
    """Role and function name of the operation ``name`` with so many operands that depend on an input."""
    found = TABLE.get(name, Role.OPAQUE)
    if name in PRODUCTS_OF_TWO and floating_operands < 2:
        found = Role.LINEAR
    if name in MATRIX_PRODUCTS and floating_operands > 1:
        found = Role.BILINEAR
    function = {"relu": "relu", "detach": "stop_gradient"}.get(name, kind)
    return found, function
