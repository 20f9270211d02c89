"""What each TensorFlow operation is to a rule. An operation that is not listed is opaque."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from explainers.graph import Role

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
SCALES = {"Mul", "MulNoNan", "RealDiv", "Div", "DivNoNan", "Neg"}
ADDS = {"BiasAdd", "BiasAddV1", "Add", "AddV2", "AddN"}
ARITHMETIC = {
    "Exp", "Expm1", "Log", "Log1p", "Sqrt", "Rsqrt", "Reciprocal", "Inv", "Abs", "Pow", "Square", "SquaredDifference",
    *PRODUCT.split(),
}  # fmt: skip
GUARDED_QUOTIENTS = {"DivNoNan", "Xdivy"}  # 0 where one operand is 0: no product with a reciprocal
OF_ONE = {"Atan2", "Xlogy", "Xlog1py"}  # univariate where one operand is constant
OF_TWO = {"SquaredDifference": Role.PRODUCT, "Maximum": Role.REDUCE_MAX, "Minimum": Role.REDUCE_MAX}
PAIRED = {"Pow", "Atan2", "Xlogy", "Xlog1py", "Xdivy", "DivNoNan", "FloorMod"}  # functions of two where both move
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

NAMES = {
    "Relu": "relu", "Sigmoid": "sigmoid", "StopGradient": "stop_gradient", "Softmax": "softmax",
    "LogSoftmax": "log_softmax", "Min": "minimum", "Minimum": "minimum",
}  # fmt: skip
NORMS = {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"}


def role(name: str, places: Sequence[int], distinct: int) -> Role:
    """Role of the operation ``name`` whose inputs at ``places`` depend on the model's inputs.

    ``distinct``: how many different values those are. x·x is a square, c/x a reciprocal.
    """
    found = TABLE.get(name, Role.OPAQUE)
    if distinct == 1 and name in OF_ONE:
        return Role.UNIVARIATE
    if distinct == 1 and found is Role.PRODUCT:
        bends = len(places) > 1 or (name in QUOTIENTS | GUARDED_QUOTIENTS and places[0] == 1)
        return Role.UNIVARIATE if bends else Role.LINEAR
    if distinct > 1 and (found is Role.UNIVARIATE or name in GUARDED_QUOTIENTS):
        return OF_TWO.get(name, Role.OPAQUE)
    if name in MATRIX_PRODUCTS and len(places) > 1:
        return Role.BILINEAR
    if name == "ScaleAndTranslate" and list(places) != [0]:  # linear in the image, not in where it goes
        return Role.OPAQUE
    return found


def function(name: str, found: Role) -> str:
    """The framework-independent name of what the operation ``name`` computes, where rules care."""
    if name in SHAPE_ONLY:
        return "shape"
    if name in PAIRED and found in (Role.OPAQUE, Role.COMPOSITE):
        return "bivariate"
    if found is Role.PRODUCT and name in QUOTIENTS:
        return "quotient"
    if found is Role.LINEAR and name in MATRIX_PRODUCTS:
        return "conv" if name in CONVOLUTIONS else "dense"
    if name in NAMES and found is not Role.CONSTANT and (name != "Minimum" or found is Role.REDUCE_MAX):
        return NAMES[name]
    if found is Role.UNIVARIATE and name in ARITHMETIC:
        return "arithmetic"
    if found is Role.LINEAR:
        return "copy" if name in COPIES else "scale" if name in SCALES else "add" if name in ADDS else ""
    return ""


def attributes(called: str, constants: Sequence[int]) -> dict[str, Any]:
    """What rules for the function ``called`` need to know. ``constants``: places of the floating constants."""
    if called in ("softmax", "log_softmax"):
        return {"axis": -1}
    return {"weight": constants[0]} if called in ("dense", "conv") else {}
