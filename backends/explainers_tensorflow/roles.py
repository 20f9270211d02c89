"""What each TensorFlow operation is to a rule. An operation that is not listed is opaque."""

from __future__ import annotations

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
REDUCE_MAX = "Max Min TopK TopKV2 SegmentMax SegmentMin UnsortedSegmentMax UnsortedSegmentMin"
GATHER = "Gather GatherV2 GatherNd"
COMPOSITE = """
    Softmax LogSoftmax Prod L2Loss LRN Cumprod CumulativeLogsumexp EuclideanNorm Atan2 Xlogy Xlog1py
    SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits
    FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
"""
MATRIX_PRODUCTS = {
    "MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "Conv", "Conv2D", "Conv3D",
    "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv2DBackpropInputV2", "Conv3DBackpropInputV2",
    "DepthwiseConv2dNativeBackpropInput",
}  # fmt: skip
QUOTIENTS = {"RealDiv", "Div", "DivNoNan", "Xdivy"}
OF_TWO = {"Pow": Role.COMPOSITE, "SquaredDifference": Role.COMPOSITE, "FloorMod": Role.COMPOSITE,
          "Maximum": Role.REDUCE_MAX, "Minimum": Role.REDUCE_MAX}  # fmt: skip

TABLE: dict[str, Role] = {
    name: role
    for role, names in (
        (Role.LINEAR, LINEAR), (Role.UNIVARIATE, UNIVARIATE), (Role.PRODUCT, PRODUCT), (Role.MAX_POOL, MAX_POOL),
        (Role.REDUCE_MAX, REDUCE_MAX), (Role.GATHER, GATHER), (Role.COMPOSITE, COMPOSITE),
    )
    for name in names.split()
}  # fmt: skip

NORMS = {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"}


def role(name: str, places: list[int], distinct: int) -> Role:
    """Role of the operation ``name`` whose inputs at ``places`` depend on the model's inputs.

    ``distinct``: how many different values those are. x·x is a square, c/x a reciprocal.
    """
    found = TABLE.get(name, Role.OPAQUE)
    if found is Role.PRODUCT and distinct == 1:
        if len(places) > 1 or (name in QUOTIENTS and places == [1]):
            return Role.UNIVARIATE
        return Role.LINEAR
    if distinct > 1 and name in OF_TWO:
        return OF_TWO[name]
    if name in MATRIX_PRODUCTS and len(places) > 1:
        return Role.BILINEAR
    return found
