"""The role of each TensorFlow operation. An operation that is not listed is opaque."""

from __future__ import annotations

from collections.abc import Sequence

from explainers.graph import Attributes, Function, Registered, Role

LINEAR = """
    Identity StopGradient Snapshot EnsureShape MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum Conv
    Conv2D Conv3D DepthwiseConv2dNative Conv2DBackpropInput Conv2DBackpropInputV2 Conv3DBackpropInputV2
    DepthwiseConv2dNativeBackpropInput BiasAdd BiasAddV1 Add AddV2 AddN Sub Neg Mean Sum Cumsum Reshape
    Squeeze ExpandDims Transpose BroadcastTo Tile Fill Cast Slice StridedSlice Split SplitV Concat ConcatV2
    Pack Unpack ReverseV2 ReverseSequence Roll Pad PadV2 MirrorPad AvgPool AvgPool3D ResizeBilinear
    ResizeNearestNeighbor ResizeBicubic ResizeArea ScaleAndTranslate SpaceToDepth DepthToSpace
    SpaceToBatchND BatchToSpaceND Select SelectV2 MatrixBandPart MatrixDiag MatrixDiagV2 MatrixDiagV3
    MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 Diag
    DiagPart ScatterNd TensorScatterAdd TensorScatterSub TensorScatterUpdate SegmentSum SegmentMean
    UnsortedSegmentSum ExtractImagePatches DynamicStitch ParallelDynamicStitch
"""
UNIVARIATE = """
    Relu Relu6 LeakyRelu Elu Selu Sigmoid Tanh Softplus Softsign Exp Expm1 Log Log1p Sqrt Rsqrt Reciprocal
    Inv Abs Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Erf Erfc Erfinv Ndtri Square Sign Floor
    Ceil Round Rint ClipByValue Pow SquaredDifference Maximum Minimum FloorMod Lgamma Digamma
    BesselI0e BesselI1e
"""
PRODUCT = "Mul MulNoNan RealDiv Div DivNoNan Xdivy"
MAX_POOL = "MaxPool MaxPoolV2 MaxPool3D MaxPoolWithArgmax"
REDUCE_MAX = "Max Min"
GATHER = "Gather GatherV2 GatherNd LookupTableFind LookupTableFindV2"
COMPOSITE = """
    Softmax LogSoftmax Prod L2Loss LRN Cumprod CumulativeLogsumexp EuclideanNorm Atan2 Xlogy Xlog1py
    SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits
    FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
"""
CONVOLUTIONS = {
    "Conv", "Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv2DBackpropInputV2",
    "Conv3DBackpropInputV2", "DepthwiseConv2dNativeBackpropInput",
}  # fmt: skip
MATRIX_PRODUCTS = {"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", *CONVOLUTIONS}
QUOTIENTS = {"RealDiv", "Div"}
COPY = """
    Identity Snapshot EnsureShape Reshape Squeeze ExpandDims Transpose BroadcastTo Tile Fill Cast Slice StridedSlice
    Split SplitV Concat ConcatV2 Pack Unpack ReverseV2 ReverseSequence Roll Pad PadV2 MirrorPad
    ResizeNearestNeighbor SpaceToDepth DepthToSpace SpaceToBatchND BatchToSpaceND Select SelectV2 MatrixBandPart
    MatrixDiag MatrixDiagV2 MatrixDiagV3 MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixSetDiag
    MatrixSetDiagV2 MatrixSetDiagV3 Diag DiagPart TensorScatterUpdate ExtractImagePatches DynamicStitch
    ParallelDynamicStitch
"""  # each output entry is an entry of an input or a constant
COPIES = set(COPY.split())
RELABELS = {"Cast", "Identity", "Snapshot", "EnsureShape", "Reshape", "Squeeze", "ExpandDims", "Transpose"}
REPEATS = {"BroadcastTo", "Tile"}  # the first operand, over and over along axes
SCALES = {"Mul", "MulNoNan", "RealDiv", "Div", "DivNoNan", "Neg"}
ADDS = {"BiasAdd", "BiasAddV1", "Add", "AddV2", "AddN"}
ARITHMETIC = {
    "Exp", "Expm1", "Log", "Log1p", "Sqrt", "Rsqrt", "Reciprocal", "Inv", "Abs", "Pow", "Square", "SquaredDifference",
    *PRODUCT.split(),
}  # fmt: skip
GUARDED_QUOTIENTS = {"DivNoNan", "Xdivy"}  # 0 where one operand is 0: not a product with a reciprocal
OF_ONE = {"Atan2", "Xlogy", "Xlog1py"}  # univariate where one operand is constant
OF_TWO = {"SquaredDifference": Role.PRODUCT, "Maximum": Role.REDUCE_MAX, "Minimum": Role.REDUCE_MAX}
PAIRED = {"Pow", "Atan2", "Xlogy", "Xlog1py", "Xdivy", "DivNoNan", "FloorMod"}  # of two tensors if both are active
SHAPE_ONLY = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"}
BATCH_SIZES = {"Shape", "ShapeN", "Size"}
ALSO_ELEMENTWISE = """
    Identity StopGradient Snapshot EnsureShape BiasAdd BiasAddV1 Add AddV2 AddN Sub Neg Cast Select SelectV2
    ZerosLike OnesLike Equal NotEqual ApproximateEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr
    LogicalNot IsNan IsInf IsFinite FloorDiv TruncateDiv TruncateMod Mod BitwiseAnd BitwiseOr BitwiseXor Invert
    LeftShift RightShift NextAfter
"""
ELEMENTWISE = {*UNIVARIATE.split(), *PRODUCT.split(), *OF_ONE, *ALSO_ELEMENTWISE.split()}

TABLE: dict[str, Role] = {
    name: role
    for role, names in (
        (Role.LINEAR, LINEAR), (Role.UNIVARIATE, UNIVARIATE), (Role.PRODUCT, PRODUCT), (Role.MAX_POOL, MAX_POOL),
        (Role.REDUCE_MAX, REDUCE_MAX), (Role.GATHER, GATHER), (Role.COMPOSITE, COMPOSITE),
    )
    for name in names.split()
}  # fmt: skip

REGISTERED = Registered(TABLE)

NAMES = {
    "Relu": Function.RELU, "Sigmoid": Function.SIGMOID, "StopGradient": Function.STOP_GRADIENT,
    "Softmax": Function.SOFTMAX, "LogSoftmax": Function.LOG_SOFTMAX, "Min": Function.MINIMUM,
    "Minimum": Function.MINIMUM, "Gather": Function.EMBEDDING, "GatherV2": Function.EMBEDDING,
}  # fmt: skip
NORMS = {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"}


def listed(name: str) -> Role:
    """Its role in the table or as registered, before its operands are considered."""
    own = REGISTERED.get(name)
    return TABLE.get(name, Role.OPAQUE) if own is None else own[0]


def elementwise(name: str) -> bool:
    """Whether each output entry depends only on the input entries at the same place."""
    own = REGISTERED.get(name)
    return name in ELEMENTWISE if own is None else own[2]


def role(name: str, places: Sequence[int], distinct: int) -> Role:
    """Role of the operation ``name`` whose inputs at ``places`` depend on the model's inputs.

    ``distinct``: the number of distinct values among those. x·x is a square, c/x a reciprocal.
    """
    found = listed(name)
    if distinct == 1 and name in OF_ONE:
        return Role.UNIVARIATE
    if distinct == 1 and found is Role.PRODUCT:
        bends = len(places) > 1 or (name in QUOTIENTS | GUARDED_QUOTIENTS and places[0] == 1)
        return Role.UNIVARIATE if bends else Role.LINEAR
    if distinct > 1 and (found is Role.UNIVARIATE or name in GUARDED_QUOTIENTS):
        return OF_TWO.get(name, Role.OPAQUE)
    if name in MATRIX_PRODUCTS and len(places) > 1:
        return Role.BILINEAR
    if name == "ScaleAndTranslate" and list(places) != [0]:  # linear in the image, not in the coordinates
        return Role.OPAQUE
    return found


def function(name: str, found: Role) -> Function:
    """The framework-independent function of the operation ``name``, where rules distinguish it."""
    own = REGISTERED.get(name)
    if own is not None:
        return own[1] if found is own[0] else Function.NONE
    if name in SHAPE_ONLY:
        return Function.SHAPE
    if name in PAIRED and found in (Role.OPAQUE, Role.COMPOSITE):
        return Function.BIVARIATE
    if found is Role.PRODUCT and name in QUOTIENTS:
        return Function.QUOTIENT
    if found is Role.LINEAR and name in MATRIX_PRODUCTS:
        return Function.CONV if name in CONVOLUTIONS else Function.DENSE
    if name in NAMES and found is not Role.CONSTANT and (name != "Minimum" or found is Role.REDUCE_MAX):
        return NAMES[name]
    if found is Role.UNIVARIATE and name in ARITHMETIC:
        return Function.ARITHMETIC
    if found is Role.LINEAR and name in COPIES:
        return Function.COPY
    if found is Role.LINEAR and name in SCALES:
        return Function.SCALE
    return Function.ADD if found is Role.LINEAR and name in ADDS else Function.NONE


def attributes(found: Function, constants: Sequence[int]) -> Attributes:
    """The attributes that rules for this function need. ``constants``: places of the floating-point constants."""
    if found in (Function.SOFTMAX, Function.LOG_SOFTMAX):
        return Attributes(axis=-1)
    return Attributes(weight=constants[0]) if found.weighted else Attributes()
