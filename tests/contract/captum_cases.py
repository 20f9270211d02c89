"""What the tests of Captum 0.9 state: a net, a method, inputs, a target, and the attributions that come of them.

Each case bears the name of Captum's file and test. Numbers are facts; the code is ours. Where Captum's test compares
two of its methods and states no number, the number is by hand, and the comment says how.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explainers import References, methods
from explainers.methods.lrp import LRP, Composite, Epsilon, Gamma, ZPlus

from .captum_models import MODELS


@dataclass(frozen=True)
class Case:
    """``expected``: the attributions, or what computes them from the model and its inputs as tensors, or None: they add
    up to the change of the output. NaN in it: Captum's number there is by a convention of its own.

    ``tolerance``: the largest difference. ``constant``: the output does not change, so that rounding is more than a
    thousandth of its change, and the guard of completeness speaks.
    """

    id: str
    model: str
    method: Any
    inputs: Any
    target: Any
    expected: Any
    baseline: Any = None
    wrt: Any = None
    output: str | None = None
    tolerance: float = 1e-4
    dtype: str | None = None
    constant: bool = False


CASES: list[Case] = []


def add(test: str, model: str, method: Any, inputs: Any, target: Any, expected: Any, **options: Any) -> None:
    number = sum(case.id.split("[")[0] == test for case in CASES)
    CASES.append(Case(f"{test}[{number}]", model, method, inputs, target, expected, **options))


def row(parts: Any, number: int) -> Any:
    """One sample of each part."""
    if isinstance(parts, tuple):
        return tuple(row(part, number) for part in parts)
    return parts[number : number + 1] if isinstance(parts, (list, np.ndarray)) else parts


def table(*parts: Any) -> References:
    """The same references for all samples, one table for each input."""
    arrays = tuple(np.array(part, np.float32) for part in parts)
    return References(arrays if len(arrays) > 1 else arrays[0])


def own(*parts: Any) -> References:
    """One baseline for each sample."""
    return References(tuple(np.array(part, np.float32)[:, None] for part in parts), per_sample=True)


def groups(*maps: Any) -> Any:
    arrays = tuple(np.array(m) for m in maps)
    return arrays if len(arrays) > 1 else arrays[0]


IMAGE = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
ONES = np.ones((1, 1, 4, 4), np.float32)
STEPS = 500
X = [[20, 50, 30]]
XX = [[2, 10, 3], [20, 50, 30]]
XXX = ([[23, 100, 0], [20, 50, 30]], [[20, 50, 30], [0, 100, 0]], [[0, 100, 10], [2, 10, 3]])
HUNDRED = [[0, 100, 0]]

# --- test_saliency, test_input_x_gradient ----------------------------------------------------

LINE = np.array([1, 2, 3, 0, -1, 7], np.float32)
PAIR = ([[1.5, 2, 34.3], [3.4, 1.2, 2]], [[3, 3.5, 23.2], [2.3, 1.2, 0.3]])
NOTHING = (np.zeros((2, 3)), np.zeros((2, 3)))  # 2·ReLU(x₁−1) < 3·ReLU(x₂) in both rows

UP_TO_ONE = np.array([0, 0, 0, 1, 1, 0])  # its derivative

add("saliency/test_saliency_test_basic_vanilla", "up to one", "saliency", LINE, None, UP_TO_ONE)
add("saliency/test_saliency_test_basic_multi_variable_vanilla", "weighted", "saliency", PAIR, None, NOTHING)
test = "input_x_gradient/test_input_x_gradient_test_basic_vanilla"
add(test, "up to one", "input_x_gradient", LINE, None, UP_TO_ONE * LINE)
test = "input_x_gradient/test_saliency_test_basic_multi_variable_vanilla"
add(test, "weighted", "input_x_gradient", PAIR, None, NOTHING)


def slope(model: Any, inputs: Any, target: tuple[int, ...], layer: str) -> Tensor:
    """The derivative of one value of a layer, by torch."""
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, given, found: seen.append(found))
    point = inputs.clone().requires_grad_()
    model(point)
    handle.remove()
    return torch.autograd.grad(seen[0][(slice(None), *target)].sum(), point)[0]


FIFTH = [[0, 1, 2, 3, 4]]
add("saliency/test_saliency_classification_vanilla", "softmax 5", "saliency", FIFTH, 5,
    lambda model, x: slope(model, x, (5,), "5").abs())  # fmt: skip
add("input_x_gradient/test_input_x_gradient_classification_vanilla", "softmax 5", "input_x_gradient", FIFTH, 5,
    lambda model, x: slope(model, x, (5,), "5") * x, tolerance=1e-5)  # fmt: skip

# --- test_integrated_gradients_basic ---------------------------------------------------------

QUADRATURES = {
    "multivariable": ("right", "left", "midpoint", "trapezoid"),
    "multi_argument": ("gauss_legendre", "right", "left", "midpoint"),
    "univariable": ("trapezoid", "gauss_legendre", "right", "left"),
    "multi_tensor_input": ("midpoint", "trapezoid", "gauss_legendre", "right"),
    "batched_input": ("left", "midpoint", "trapezoid", "gauss_legendre"),
    "batched_multi_input": ("right", "left", "midpoint", "trapezoid"),
}
BY = ([[1, 2, 3]], [[1, 2, 3], [4, 5, 6]])
ZERO = np.zeros(3, np.float32)
SMALL = np.full(3, 0.00001, np.float32)
BATCH = [[1.5, 2.0, 1.3], [0.5, 0.1, 2.3], [1.5, 2.0, 1.3]]
BATCHES = ([[1.5, 2.1, 1.9], [0.5, 0, 0.7], [1.5, 2.1, 1.1]], [[0.3, 1.9, 2.4], [0.5, 0.6, 2.1], [1.2, 2.1, 0.2]])
PATHS: dict[str, list[tuple[str, Any, Any, Any, Any]]] = {  # model, inputs, target, baseline, wrt
    "multivariable": [(f"{which} example", ([3.0], [1.0]), None, 0.0, None) for which in ("first", "second")],
    "multi_argument": [
        ("divided[0]", (*row(PAIR, 0), BY[0]), None, (0.0, ZERO), ["x1", "x2"]),
        ("divided[1]", (*PAIR, BY[1]), None, (np.zeros((2, 3), np.float32), 0.0), ["x1", "x2"]),
        ("weighted", PAIR, None, (0.0, 0.00001), None),
        ("weighted", PAIR, None, (ZERO, 0.00001), None),
    ],
    "univariable": [("up to one", [x], None, b, None) for x, b in [(1.0, 0.0), (0.0, 0.0), (-1.0, 0.00001)]],
    "multi_tensor_input": [("up to one of sum", ([[1.5, 2, 3.3]], [[3, 3.5, 2.2]]), None, 0.0, None)],
    "batched_input": [("layers", BATCH, 0, 0.0, None)],
    "batched_multi_input": [("layers of two", BATCHES, 0, 0.0, None)],
}
for name, paths in PATHS.items():  # NoiseTunnel adds noise of 2e-8 there, and the sums are to hold with it
    for kind, quadrature in zip(("vanilla", "smoothgrad", "smoothgrad_sq", "vargrad"), QUADRATURES[name], strict=True):
        method = methods.IntegratedGradients(steps=STEPS, quadrature=quadrature)
        for model, inputs, target, baseline, wrt in paths:
            test = f"integrated_gradients_basic/test_{name}_{kind}"
            add(test, model, method, inputs, target, None, baseline=baseline, wrt=wrt, tolerance=0.07)
for which in ("first", "second"):
    test, right = "integrated_gradients_basic/test_multivariable_vanilla", {"steps": STEPS, "quadrature": "right"}
    method = methods.IntegratedGradients(**right)
    add(test, f"{which} example", method, ([3.0], [1.0]), None, ([1.5], [-0.5]), tolerance=0.05)
    method = methods.IntegratedGradients(**right, multiply=False)
    test += "_wo_mutliplying_by_inputs"
    add(test, f"{which} example", method, ([3.0], [1.0]), None, ([0.5], [-0.5]), tolerance=0.05)
for multiply in (True, False):  # three of the four sums are above 0, and −10 + the inputs below
    test = "integrated_gradients_basic/test_batched_input_smoothgrad_wo_mutliplying_by_inputs"
    method = methods.IntegratedGradients(steps=STEPS, multiply=multiply)
    add(test, "layers", method, BATCH, 0, 3 * np.array(BATCH) ** int(multiply))

LONG = np.arange(120, dtype=np.float32).reshape(3, 40)
for test, model, quadrature, inputs, classes in [
    ("sigmoid_classification_vanilla", "sigmoid 20", "gauss_legendre", LONG[:1, :20], 0),
    ("softmax_classification_vanilla", "softmax 40", "gauss_legendre", LONG[:1], 5),
    ("softmax_classification_vanilla_batch", "softmax 40", "trapezoid", LONG, [5, 5, 2]),
]:
    method = methods.IntegratedGradients(steps=200, quadrature=quadrature)
    add(f"integrated_gradients_classification/test_{test}", model, method, inputs, classes, None, tolerance=0.005)

# --- test_deeplift_basic ---------------------------------------------------------------------

ONE_TWO = ([1.0], [2.0])
RELU_X = ([[-10, 1, -5]], [[3, 3, 1]])
RELU_XX = ([[-10, 1, -5], [2, 3, 4]], [[3, 3, 1], [2.3, 5, 4]])
SAME = (np.ones((4, 1, 1, 1), np.float32), np.full((4, 1, 1, 1), 2, np.float32))
ORIGIN = table(np.zeros((4, 1, 1, 1)), np.zeros((4, 1, 1, 1)))
FOUR = table(np.zeros((4, 1)), np.zeros((4, 1)))
ZEROS_AND_ONES = table([[0, 0, 0], [1, 1, 1]], [[0, 0, 0], [1, 1, 1]])
MULTIPLIERS = methods.DeepLift(multiply=False)
SHAP_MULTIPLIERS = methods.DeepLiftShap(multiply=False)

add("deeplift_basic/test_relu_deeplift", "relu of two", "deeplift", ONE_TWO, None, None, tolerance=1e-5)
add("deeplift_basic/test_relu_deeplift", "relu of two", "deeplift", ONE_TWO, None, ([2], [1]), tolerance=0.05)
add("deeplift_basic/test_relu_deeplift_exact_match", "relu of two", "deeplift", ONE_TWO, None, ([2], [1]), tolerance=0)
add(
    "deeplift_basic/test_relu_deeplift_exact_match_wo_mutliplying_by_inputs",
    "relu of two", MULTIPLIERS, ONE_TWO, None, ([2], [0.5]), tolerance=0,
)  # fmt: skip
TANH = (2 * np.tanh([-1.0]), 2 * (np.tanh([-3.5]) - np.tanh([-1.5])))  # each term has one input
add("deeplift_basic/test_tanh_deeplift", "tanh of two", "deeplift", ([-1.0], [-2.0]), None, None, tolerance=1e-5)
add("deeplift_basic/test_tanh_deeplift", "tanh of two", "deeplift", ([-1.0], [-2.0]), None, TANH, tolerance=1e-5)
COLUMNS = (np.ones((4, 1), np.float32), np.full((4, 1), 2, np.float32))
add("deeplift_basic/test_relu_deeplift_batch", "relu of two", "deeplift", COLUMNS, None, (2 * COLUMNS[0], COLUMNS[0]))
add("deeplift_basic/test_relu_linear_deeplift", "linear relu linear", "deeplift", RELU_X, None, None,
    baseline=(0.0, 0.0001), tolerance=1e-5)  # fmt: skip
add("deeplift_basic/test_relu_linear_deeplift", "linear relu linear", "deeplift", RELU_X, None,
    ([[0, 0, 0]], [[6, 9, 0]]), baseline=(0.0, 0.0001), tolerance=0.05)  # fmt: skip
for place in ("", " inplace"):  # row 1: both ReLUs are passed whole, 3·2 + 3 = 9 and 2·2.3 + 3·5 = 19.6
    model = f"linear relu linear{place}"
    expected = ([[0, 0, 0], [6, 3, 0]], [[6, 9, 0], [4.6, 15, 0]])
    add("deeplift_basic/test_relu_linear_deeplift_compare_inplace", model, "deeplift", RELU_XX, None, expected)
    # From ones row 0 has 4 → 0, multiplier 4/33 on (−33, 0, 0), and 5 → 15 whole; row 1 4 → 9 and 5 → 19.6.
    half = np.array([[-33, 0, 0], [3, 2, 0]]) * [[4 / 33], [1]], np.array([[4, 6, 0], [2.6, 12, 0]])
    expected = tuple((np.array(a) + b) / 2 for a, b in zip(expected, half, strict=True))
    add("deeplift_basic/test_relu_linear_deepliftshap_compare_inplace", model, "deeplift_shap", RELU_XX, None,
        expected, baseline=ZEROS_AND_ONES)  # fmt: skip
NEAR = np.array([0.0004, 0.0009, 0.0002], np.float32)  # some point within 0.001
add("deeplift_basic/test_relu_linear_deeplift_batch", "linear relu linear inplace", "deeplift", RELU_XX, None, None,
    baseline=(ZERO, NEAR), tolerance=1e-5)  # fmt: skip
test = "deeplift_basic/test_relu_deepliftshap_batch_4D_input"
add(test, "relu of two", "deeplift_shap", SAME, None, None, baseline=ORIGIN, tolerance=1e-5)
add(test, "relu of two", "deeplift_shap", SAME, None, (2 * SAME[0], SAME[0]), baseline=ORIGIN)
add(f"{test}_wo_mutliplying_by_inputs", "relu of two", SHAP_MULTIPLIERS, SAME, None, (2 * SAME[0], SAME[0] / 2),
    baseline=ORIGIN)  # fmt: skip
add("deeplift_basic/test_relu_deepliftshap_multi_ref", "relu of two", "deeplift_shap", row(COLUMNS, 0), None, None,
    baseline=FOUR, tolerance=1e-5)  # fmt: skip
add("deeplift_basic/test_relu_deepliftshap_multi_ref", "relu of two", "deeplift_shap", row(COLUMNS, 0), None,
    ([[2]], [[1]]), baseline=FOUR)  # fmt: skip


def around(inputs: Any) -> Any:
    """The sample itself, and 10 below it."""
    return References(tuple(np.stack([part, part - 10], axis=1) for part in inputs), per_sample=True)


for baseline in (ZEROS_AND_ONES, lambda inputs: ZEROS_AND_ONES, around):
    add("deeplift_basic/test_relu_deepliftshap_baselines_as_func", "linear relu linear inplace", "deeplift_shap",
        RELU_X, None, None, baseline=baseline, tolerance=1e-5)  # fmt: skip
POOLED = [[1, 2, 3, 9], [4, 8, 6, 7]]
add("deeplift_basic/test_lin_maxpool_lin_classification", "linear pool linear", "deeplift", np.ones((2, 4)), 0,
    [[0, 0, 0, -8], [0, -7, 0, 0]], baseline=np.array(POOLED, np.float32))  # fmt: skip

# --- test_deeplift_classification ------------------------------------------------------------

RANDOM = np.random.default_rng(1234)


def normal(scale: float, *shape: int) -> np.ndarray:
    return (scale * RANDOM.normal(size=shape)).astype(np.float32)


TWENTY, FORTY = LONG[:1, :20], LONG
add("deeplift_classification/test_sigmoid_classification", "sigmoid of ones", "deeplift", TWENTY, 0, None,
    tolerance=0.003)  # fmt: skip
add("deeplift_classification/test_sigmoid_classification", "sigmoid of ones", "deeplift", TWENTY, 0, TWENTY / 380)
# The last dense layer is of ones, so that softmax is a constant, and everything 0. Dense layers of ones have logits of
# 2·10⁷, which float32 knows to 2: float64, as in Captum's own test of a baseline that is not 0.
FIVE = table(normal(1, 5, 40))
CLASSIFIED: list[tuple[str, str, str, Any, Any]] = [
    ("softmax_classification_zero_baseline", "softmax 20 of ones", "deeplift", TWENTY, 0.0),
    ("softmax_classification_batch_zero_baseline", "softmax 40 of ones", "deeplift", FORTY, 0),
    ("softmax_classification_batch_multi_target", "softmax 40 of ones", "deeplift", FORTY, np.arange(1.0, 41)),
    ("softmax_classification_multi_baseline", "softmax 40 of ones", "deeplift_shap", FORTY[:1], FIVE),
    ("softmax_classification_batch_multi_baseline", "softmax 40 of ones", "deeplift_shap", FORTY[:2], FIVE),
]
for axes in (3, 2, 1):
    for name, scale in (("", 20), ("_large_baselines", 600 if axes == 3 else 500)):
        images, start = normal(100, 2, 1, *[10] * axes), normal(scale, 2, 1, *[10] * axes)
        CLASSIFIED.append((f"convnet_with_maxpool{axes}d{name}", f"conv net {axes}d", "deeplift", images, start))
for test, model, method, inputs, baseline in CLASSIFIED:
    for target in (2, 1):
        for expected, tolerance in [(None, 0.003), (np.zeros_like(inputs), 1e-4)]:
            add(f"deeplift_classification/test_{test}", model, method, inputs, target, expected, baseline=baseline,
                tolerance=tolerance, dtype="float64" if "ones" in model else None, constant=True)  # fmt: skip

# --- test_guided_backprop, test_deconvolution, test_guided_grad_cam, layer/test_grad_cam -----

UNGUIDED = np.array([[2, 3, 3, 1], [3, 5, 5, 2], [3, 5, 5, 2], [1, 2, 2, 1]])[None, None]
GUIDED = np.array([[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]])[None, None]
GUIDED_SUM = np.array([[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]])[None, None]
ONE_OF_FOUR = np.array([1, 0, 0, 0], np.float32)  # slice(0, 1) of four

for file, short, method, one, two in [
    ("deconvolution", "deconv", "deconvnet", UNGUIDED, UNGUIDED),
    ("guided_backprop", "gb", "guided_backprop", GUIDED, GUIDED_SUM),
]:
    add(f"{file}/test_simple_input_conv_{short}", "conv", method, IMAGE, 0, one)
    add(f"{file}/test_simple_input_conv_neuron_{short}", "conv", method, IMAGE, 0, one, output="fc1")
    add(
        f"{file}/test_simple_input_conv_neuron_{short}_agg_neurons",
        "conv",
        method,
        IMAGE,
        ONE_OF_FOUR,
        one,
        output="fc1",
    )
    add(f"{file}/test_simple_multi_input_conv_{short}", "conv of two", method, (IMAGE, ONES), 0, (two, two))
    add(f"{file}/test_simple_multi_input_conv_neuron_{short}", "conv of two", method, (IMAGE, ONES), 3, (two, two),
        output="fc1")  # fmt: skip


def by_hand(model: Any, inputs: Any, target: int, active: bool) -> Tensor:
    """The message m of one class back through both ReLUs: m·[m>0], and where ``active`` times [x>0]."""
    point = inputs.clone().requires_grad_()
    first = model.conv1(point)
    second = model.fc1(torch.relu(first).flatten(1))
    message = torch.zeros_like(second)
    message[:, target] = 1
    message = message * (second > 0) if active else message
    message = (message @ model.fc1.weight).clamp(min=0).reshape(first.shape)
    return torch.autograd.grad(first, point, message * (first > 0) if active else message)[0]


HUNDREDFOLD = normal(100, 1, 1, 4, 4)
for target in range(4):
    for test, method in [("deconvolution/test_deconv", "deconvnet"), ("guided_backprop/test_gb", "guided_backprop")]:
        expected = partial(by_hand, target=target, active=method == "guided_backprop")
        for output in (None, "relu2"):
            add(f"{test}_matching", "conv", method, HUNDREDFOLD, target, expected, output=output, tolerance=0.01)


def corners(upper: float, right: float, lower: float, last: float) -> np.ndarray:
    """Maps are stretched to the input by the nearest place in Captum, linearly here: both agree in the corners."""
    result = np.full((1, 1, 4, 4), np.nan)
    result[0, 0, ::3, ::3] = [[upper, right], [lower, last]]
    return result


CORNERS = corners(14.5, 19, 32.5, 37)
add("guided_grad_cam/test_simple_input_conv", "conv", methods.GuidedGradCam("relu1"), IMAGE, 0, corners(0, 4, 28, 32.5))
for test, place in [
    ("test_simple_multi_input_conv", ""),
    ("test_simple_multi_input_relu_input", " inplace"),
    ("test_simple_multi_input_conv_inplace", " inplace"),
]:
    add(f"guided_grad_cam/{test}", f"conv of two{place}", methods.GuidedGradCam("conv1"), (IMAGE, ONES), 0,
        (CORNERS, CORNERS))  # fmt: skip

CAM = methods.GradCam(relu=False)
NEGATIVE = IMAGE.copy()
NEGATIVE[0, 0, 1, 1] = -4
add("layer/grad_cam/test_simple_input_conv", "conv", CAM, IMAGE, 0, [[[11.25, 13.5], [20.25, 22.5]]], wrt="conv1")
add("layer/grad_cam/test_simple_input_conv_no_grad", "conv frozen", CAM, IMAGE, 0, [[[11.25, 13.5], [20.25, 22.5]]],
    wrt="conv1")  # fmt: skip
add("layer/grad_cam/test_simple_input_conv_relu", "conv", CAM, IMAGE, 0, [[[0, 4], [28, 32.5]]], wrt="relu1")
add("layer/grad_cam/test_simple_input_conv_without_final_relu", "conv", CAM, NEGATIVE, 0, 0.5625 * NEGATIVE[:, 0])
add("layer/grad_cam/test_simple_input_conv_fc_with_final_relu", "conv", "grad_cam", NEGATIVE, 0,
    0.5625 * np.maximum(NEGATIVE[:, 0], 0))  # fmt: skip
add("layer/grad_cam/test_simple_multi_input_conv", "conv of two", CAM, (IMAGE, ONES), 0, [[[14.5, 19], [32.5, 37]]],
    wrt="conv1")  # fmt: skip

# --- test_occlusion --------------------------------------------------------------------------

TENS = ([[-10.0], [3.0]], [[-5.0], [1.0]])
WHOLE_TENS = (np.array([[-10], [3]]), np.array([[-5], [1]]))
TENS_FOUND = ([[0], [1]], [[0], [-1]])


def occlude(window: Any, stride: Any = 1) -> methods.Occlusion:
    return methods.Occlusion(window=window, stride=stride)


add("occlusion/test_simple_input", "layers", occlude(1), X, 0, [[80, 200, 120]])
add("occlusion/test_simple_multi_input_int_to_float", "second example as float", occlude(1), WHOLE_TENS, 0, TENS_FOUND,
    baseline=0)  # fmt: skip
add("occlusion/test_simple_multi_input", "second example", occlude(1), TENS, 0, TENS_FOUND)
add("occlusion/test_simple_multi_input_0d", "second example", occlude(1), ([-10.0, 3.0], [-5.0, 1.0]), None,
    ([0, 1], [0, -1]))  # fmt: skip
add(
    "occlusion/test_simple_input_larger_shape", "layers", occlude(2), X, 0, [[200, 220, 240]], baseline=np.full(3, 10.0)
)
add("occlusion/test_simple_input_shape_with_stride", "layers", occlude(2, 2), X, 0, [[280, 280, 120]])
add("occlusion/test_multi_sample_ablation", "layers", occlude(1), XX, 0, [[8, 35, 12], [80, 200, 120]])
WINDOWS = ([[492] * 3, [400] * 3], [[80, 200, 120], [0, 400, 0]], [[400, 420, 440], [48, 50, 52]])
THREE = "layers of three × 1"
test = "occlusion/test_multi_input_ablation_with_mask"
add(test, THREE, occlude(((3,), (1,), (2,))), XXX, 0, WINDOWS)
add(test, THREE, occlude(((3,), (1,))), XXX, 0, WINDOWS[:2], wrt=["x1", "x2"])
add("occlusion/test_multi_input_ablation_with_baselines", THREE, occlude(((3,), (1,), (2,)), ((2,), (1,), (2,))), XXX,
    0,
    ([[444] * 3, [328] * 3], [[68, 188, 108], [-12, 388, -12]], [[368, 368, 24], [0, 0, -12]]),
    baseline=own([[1, 4, 7], [3, 6, 9]], [[3] * 3, [3] * 3], [[4] * 3, [6] * 3]))  # fmt: skip
PICTURES = (IMAGE, ONES)
test = "occlusion/test_simple_multi_input_conv"
add(test, "conv of two", occlude(((1, 4, 4), (1, 4, 4))), PICTURES, 0, (67 * ONES, 13 * ONES))
add(test, "conv of two", occlude(((1, 2, 3), (1, 1, 2)), ((1, 2, 1), (1, 1, 2))), PICTURES, 0,
    ([[[[17] * 4, [17] * 4, [64, 65.5, 65.5, 67], [64, 65.5, 65.5, 67]]]], [[[[3] * 4, [3] * 4, [3] * 4, [0] * 4]]])
)  # fmt: skip
add("occlusion/test_simple_multi_input_conv_diff_shapes", "conv of two",
    occlude(((1, 2, 4), (1, 2, 1)), ((1, 2, 1), (1, 1, 1))), (IMAGE, np.ones((1, 1, 4, 1), np.float32)), 0,
    ([[[[17] * 4, [17] * 4, [67] * 4, [67] * 4]]], [[[[10], [10], [8], [6]]]]))  # fmt: skip

# --- test_feature_ablation, neuron/test_neuron_ablation --------------------------------------


def ablate(*maps: Any) -> methods.FeatureAblation:
    return methods.FeatureAblation(groups=groups(*maps)) if maps else methods.FeatureAblation()


BOOLEANS = np.array([[True, False, True]])
FIRST_SAMPLE, SECOND_SAMPLE = ([1, 1, 1], [3, 4, 2], [5, 6, 7]), ([0, 1, 0], [3, 4, 2], [5, 5, 5])
MASKED = ([[492] * 3, [200] * 3], [[80, 200, 120], [0, 400, 0]], [[0, 400, 40], [60] * 3])
MASKED_FROM = ([[468] * 3, [184, 192, 184]], [[68, 188, 108], [-12, 388, -12]], [[-16, 384, 24], [12] * 3])
BASES = (np.array([3, 0, 0]), np.array([0, 1, 0]), np.array([1, 2, 3]))
FROM_BASES = ([[80, 400, 0], [68, 200, 120]], [[80, 196, 120], [0, 396, 0]], [[-4, 392, 28], [4, 32, 0]])
OWN_BASES = own([[3, 0, 0], [3, 0, 2]], [[0, 1, 0], [0, 1, 4]], [[3, 2, 4], [1, 2, 3]])
FROM_OWN = ([[80, 400, 0], [68, 200, 112]], [[80, 196, 120], [0, 396, -16]], [[-12, 392, 24], [4, 32, 0]])
CONV_EACH = (
    [[[[0, 2, 4, 3], [4, 9, 10, 7], [4, 13, 14, 11], [0] * 4]]],
    [[[[1, 2, 2, 1], [1, 2, 2, 1], [1, 2, 2, 1], [0] * 4]]],
)

file = "feature_ablation"
add(f"{file}/test_simple_ablation", "layers", ablate(), X, 0, [[80, 200, 120]])
add(
    f"{file}/test_simple_ablation_int_to_float",
    "up to one as float",
    ablate(),
    np.array([[-3, 1, 2]]),
    0,
    [[-3, 0, 0]],
    baseline=0,
)
add(f"{file}/test_simple_ablation_int_to_int_nt", "up to one", ablate(), [[-3, 1, 2]], 0, [[-3, 0, 0]])
add(f"{file}/test_simple_ablation_with_mask", "layers", ablate([0, 0, 1]), X, 0, [[280, 280, 120]])
add(f"{file}/test_simple_ablation_with_baselines", "layers", ablate([0, 0, 1]), X, 0, [[248, 248, 104]], baseline=4)
add(f"{file}/test_simple_ablation_boolean", "layers of booleans", ablate([0, 0, 1]), BOOLEANS, 0, [[40, 40, 40]])
add(f"{file}/test_simple_ablation_boolean_with_baselines", "layers of booleans", ablate([0, 0, 1]), BOOLEANS, 0,
    [[-40, -40, 0]], baseline=True)  # fmt: skip
add(f"{file}/test_multi_sample_ablation", "layers", ablate(), XX, 0, [[8, 35, 12], [80, 200, 120]])
for number, (mask, expected) in enumerate([([0, 0, 1], [[41, 41, 12]]), ([1, 1, 0], [[280, 280, 120]])]):
    doubled = np.array([1.0, 1.0], np.float32)  # both outputs, which are 2 apart
    add(f"{file}/test_multi_sample_ablation_with_mask", "layers", ablate(mask), row(XX, number), 0, expected)
    test = "neuron/neuron_ablation/test_multi_sample_ablation_with"
    add(f"{test}_mask", "layers", ablate(mask), row(XX, number), 0, expected, output="linear2")
    for name in ("selector_fn", "slice"):
        twice = 2 * np.array(expected)
        add(f"{test}_{name}", "layers", ablate(mask), row(XX, number), doubled, twice, output="linear2")
for file, output in [("feature_ablation", None), ("neuron/neuron_ablation", "model.linear2")]:
    test = f"{file}/test_multi_input_ablation_with_mask"
    for number, maps in enumerate((FIRST_SAMPLE, SECOND_SAMPLE)):
        inputs = row(XXX, number)
        add(test, THREE, ablate(*maps), inputs, 0, row(MASKED, number), output=output)
        add(test, THREE, ablate(*maps[:2]), inputs, 0, row(MASKED[:2], number), wrt=["x1", "x2"], output=output)
        add(test, THREE, ablate(*maps), inputs, 0, row(MASKED_FROM, number), baseline=(2, 3, 4), output=output)
    test = f"{file}/test_multi_input_ablation"
    add(test, THREE, ablate(), XXX, 0, FROM_BASES, baseline=BASES, output=output)
    add(test, THREE, ablate(), XXX, 0, FROM_OWN, baseline=OWN_BASES, output=output)
    test, output = f"{file}/test_simple_multi_input_conv", output and "relu2"
    add(test, "conv of two", ablate([[[0]]], [[[1]]]), PICTURES, 0, (67 * ONES, 13 * ONES), output=output)
    add(test, "conv of two", ablate(), PICTURES, 0, CONV_EACH, output=output)
SHARED_FIRST, SHARED_SECOND = ([1, 1, 1], [0, 1, 2], [0, 1, 2]), ([0, 1, 0], [0, 1, 2], [0, 0, 0])
SHARED = ([[1092] * 3, [260, 600, 260]], [[80, 1092, 160], [260, 600, 0]], [[80, 1092, 160], [260] * 3])
SHARED_FROM = ([[1040] * 3, [184, 580, 184]], [[52, 1040, 132], [184, 580, -12]], [[52, 1040, 132], [184] * 3])
for number, maps in enumerate((SHARED_FIRST, SHARED_SECOND)):
    test = "feature_ablation/test_multi_input_ablation_with_mask_dupe_feature_idx"
    add(test, THREE, ablate(*maps), row(XXX, number), 0, row(SHARED, number))
    add(test, THREE, ablate(*maps), row(XXX, number), 0, row(SHARED_FROM, number), baseline=(2, 3, 4))
add("feature_ablation/test_single_ablation_batch_scalar_tensor_1d", "layers", ablate([0, 0, 1]), [[2, 10, 3]],
    np.array([1.0, 1.0]), [[82, 82, 24]])  # fmt: skip
add("neuron/neuron_ablation/test_simple_ablation_with_mask", "layers", ablate([0, 0, 1]), X, 0, [[280, 280, 120]],
    output="linear2")  # fmt: skip
NINE = [[[[0, 1, 2, 0], [4, 5, 6, 0], [8, 9, 10, 0], [0] * 4]]], [[[[1, 1, 1, 0]] * 3 + [[0] * 4]]]
test, place = "neuron/neuron_ablation/test_simple_multi_input_conv_intermediate", (1, 0, 0)
both = ablate([[[0]]], [[[1]]])
add(test, "conv of two inplace", both, PICTURES, place, (0 * ONES, 0 * ONES), output="relu1")
add(test, "conv of two inplace", both, PICTURES, place, (45 * ONES, 9 * ONES), output="conv1")
add(test, "conv of two inplace", ablate(), PICTURES, place, NINE, output="conv1")

# --- layer/test_layer_ablation ---------------------------------------------------------------

file, BASE = "layer/layer_ablation", np.array([1, 2, 3])
add(f"{file}/test_simple_ablation_with_mask", "layers", ablate([0, 0, 1]), X, 0, [[280, 280, 120]])
add(f"{file}/test_multi_input_ablation", THREE, ablate(), XXX, 0, [[168, 992, 148], [84, 632, 120]], baseline=BASE,
    wrt="model.linear0")  # out of it, and into linear1 # fmt: skip
for number, (mask, expected) in enumerate([([0, 1, 0], [[316, 992, 316]]), ([0, 1, 2], [[84, 632, 120]])]):
    add(f"{file}/test_multi_input_ablation_with_layer_mask", THREE, ablate(mask), row(XXX, number), 0, expected,
        baseline=BASE, wrt="model.linear0")  # fmt: skip
test, places = f"{file}/test_simple_multi_input_conv_intermediate", [[[4, 13], [40, 49]], [[0, 0], [-15, -24]]]
model = "conv of two inplace"
add(test, model, ablate(), PICTURES, 0, [places], wrt="relu1")
add(test, model, ablate(), PICTURES, 0, [places], wrt="conv1",
    baseline=np.array([[[-4, -13], [-2, -2]], [[0, 0], [0, 0]]]))  # fmt: skip
add(test, model, ablate([[[0, 0], [1, 1]], [[2, 2], [3, 3]]]), PICTURES, 0,
    [[[[17, 17], [67, 67]], [[0, 0], [-39, -39]]]], wrt="relu1")  # fmt: skip
SEVENS = ([[0, 7, 7, 7]], [[0, 7, 7, 7]])
add(f"{file}/test_simple_multi_output_ablation", "layers pair", ablate(), [[0, 6, 0]], 0, SEVENS, wrt="multi_relu")
add(f"{file}/test_simple_multi_output_input_ablation", "layers pair", ablate(), [[0, 6, 0]], 0, SEVENS, wrt="before")

# --- test_shapley, test_kernel_shap ----------------------------------------------------------


def sampled(count: int) -> Any:
    return lambda maps: methods.ShapleySampling(count, antithetic=False, groups=groups(*maps) if maps else None)


def exact(maps: Any) -> Any:
    return methods.ExactShapley(groups=groups(*maps) if maps else None)


def kernel(maps: Any) -> Any:
    return methods.KernelShap(groups=groups(*maps) if maps else None)


SHAPLEY = [[76.66666, 196.66666, 116.66666]]
SHAPLEYS = [[7, 32.5, 10.5], *SHAPLEY]
NINES = ([[23, 0, 0], [20, 50, 30]], [[20, 0, 50], [0, 100, 0]], [[0, 100, 10], [0, 10, 0]])
NINES_FOUND = ([[90, 0, 0], [78, 198, 118]], [[78, 0, 198], [0, 398, 0]], [[0, 398, 38], [0, 38, 0]])
SHARED_SHAPLEY = (
    [[1088.6666] * 3, [255, 595, 255]],
    [[76.6666, 1088.6666, 156.6666], [255, 595, 0]],
    [[76.6666, 1088.6666, 156.6666], [255] * 3],
)
BOTH = np.array([1.0, 1.0])
for file, kind, tolerance, draws in [
    ("shapley", sampled, 1.0, True), ("shapley", exact, 0.001, False), ("kernel_shap", kernel, 1.0, False),
]:  # fmt: skip
    sampling = "" if file == "kernel_shap" else "_sampling"
    simple = f"{file}/test_simple_{file}{sampling}"

    def by(count: int, *maps: Any, kind: Any = kind, draws: bool = draws) -> Any:
        return kind(count)(maps) if draws else kind(maps)

    tol: dict[str, Any] = {"tolerance": tolerance}
    mask = [0, 0, 1]
    add(simple, "layers", by(2000), X, 0, SHAPLEY, **tol)
    add(f"{simple}_with_mask", "layers", by(100, mask), X, 0, [[275, 275, 115]], **tol)
    add(f"{simple}_with_baselines", "layers", by(100, mask), X, 0, [[248, 248, 104]], baseline=4, **tol)
    simple = simple.replace("simple", "simple_batch" if file == "kernel_shap" else "multi_sample")
    add(simple, "layers", by(2000), XX, 0, SHAPLEYS, **tol)
    add(f"{simple}_with_mask", "layers", by(100, mask), row(XX, 0), 0, [[39.5, 39.5, 10.5]], **tol)
    add(f"{simple}_with_mask", "layers", by(100, [1, 1, 0]), row(XX, 1), 0, [[275, 275, 115]], **tol)
    multi = f"{file}/test_multi_input_{'batch_' if file == 'kernel_shap' else ''}{file}{sampling}"
    if kind is not exact:
        add(f"{multi}_without_mask", THREE, by(2000), NINES, 0, NINES_FOUND, **tol)
    for number, maps in enumerate((SHARED_FIRST, SHARED_SECOND)):
        inputs, name = row(XXX, number), multi + ("" if file == "kernel_shap" else "_with_mask")
        add(name, THREE, by(2000, *maps), inputs, 0, row(SHARED_SHAPLEY, number), **tol)
        add(name, THREE, by(100, *maps), inputs, 0, row(SHARED_FROM, number), baseline=(2, 3, 4), **tol)
    test = f"{file}/test_single_{file}_{'scalar' if file == 'kernel_shap' else 'batch_scalar'}_tensor_1d"
    add(test, "layers", by(500, mask), [[2, 10, 3]], BOTH, [[79, 79, 21]], **tol)
    if file == "kernel_shap":
        test, base = "kernel_shap/test_linear_kernel_shap", np.array([10, 20, 10])
        add(test, "layers", by(0), X, 0, [[40, 120, 80]], baseline=base, **tol)
        test = "kernel_shap/test_multi_input_kernel_shap"
        add(f"{test}_without_mask", THREE, by(0), row(NINES, 0), 0, row(NINES_FOUND, 0), **tol)
        for expected, start in [(SHARED_SHAPLEY, 0), (SHARED_FROM, (2, 3, 4))]:
            add(f"{test}_with_mask", THREE, by(0, *SHARED_SECOND), row(XXX, 1), 0, row(expected, 1), baseline=start,
                **tol)  # fmt: skip
        empty = ([[23, 0, 0, 23, 0, 0, 23]], np.zeros((1, 0), np.float32))
        for maps in ((), (list(range(7)), np.zeros(0, int))):
            add(f"{test}_with_empty_input", "linear of seven and none", by(0, *maps), empty, None,
                ([[-8, 0, 0, -2, 0, 0, -8]], np.zeros((1, 0))), **tol)  # fmt: skip
    else:
        flags: dict[str, Any] = {"model": "layers of booleans", "inputs": BOOLEANS, "target": 0, **tol}
        simple = "shapley/test_simple_shapley_sampling_boolean"
        add(simple, method=by(500, mask), expected=[[35, 35, 35]], **flags)
        add(f"{simple}_with_baseline", method=by(100, mask), expected=[[-40, -40, 0]], baseline=True, **flags)
        test, zeros = "shapley/test_shapley_sampling_multi_task_output", [[0, 0, 0]]
        add(test, "layers and ones", by(2000), X, "all", [SHAPLEY, SHAPLEY, zeros, zeros], **tol)
        for groups_, expected in [([1, 1, 0], [[275, 275, 115]]), ([0, 1, 1], [[75, 315, 315]])]:
            add(f"{test}_with_mask", "layers and a one", by(500, groups_), X, "all", [expected, expected, zeros], **tol)

# --- test_gradient_shap, layer/test_layer_gradient_shap, neuron/test_neuron_gradient_shap ----

WEIGHTS = np.array([0.3, -0.2, 0.1, 0.25, -0.35, 0.05, 0.15])
MANY = (np.ones((10, 3), np.float32), np.ones((10, 4), np.float32))
NOWHERE = table(np.zeros((20, 3)), np.zeros((20, 4)))
CLOSE = table(np.full((20, 3), 1 + 2e-5), np.full((20, 4), 1 + 2e-5))
SLOPES = (np.tile(WEIGHTS[:3], (10, 1)), np.tile(WEIGHTS[3:], (10, 1)))  # a linear model has one answer
test = "gradient_shap/test_basic_multi_input"
add(test, "linear of two", "gradient_shap", MANY, None, SLOPES, baseline=NOWHERE)
for multiply, expected in [(True, tuple(-2e-5 * slope for slope in SLOPES)), (False, SLOPES)]:
    add(f"{test}_wo_mutliplying_by_inputs", "linear of two", methods.GradientShap(multiply=multiply), MANY, None,
        expected, baseline=CLOSE, tolerance=1e-6)  # fmt: skip
add("gradient_shap/test_basic_relu_multi_input", "first example", methods.GradientShap(samples=20000), ([[3]], [[1]]),
    0,    ([[1.5]], [[-0.5]]), baseline=table([[0]], [[0]]), tolerance=0.05)  # fmt: skip
add("layer/layer_gradient_shap/test_basic_multilayer_wo_multiplying_by_inputs", "layers inplace",
    methods.GradientShap(multiply=False), [[1, -20, 10]], 0, [[1, 0]], baseline=table([[2, 4]] * 3),
    wrt="linear2")  # fmt: skip
NINETY = [[90, 100, 100, 100]]
PAST = table([[0, 1, 1, 1]], [[0, 1, 1, 1]])  # what the pair of ReLUs makes of 0
add("layer/layer_gradient_shap/test_basic_multi_tensor_output", "layers pair", "gradient_shap", HUNDRED, 0,
    (NINETY, NINETY), baseline=PAST, wrt="multi_relu", tolerance=0.005)  # fmt: skip
add("neuron/neuron_gradient_shap/test_basic_multilayer", "layers inplace", methods.GradientShap(multiply=False),
    [[1, 20, 10]], 0, [[1, 1, 1]], baseline=table(np.zeros((2, 3))), output="linear1")  # fmt: skip

TWO_REFERENCES = normal(1, 2, 3)  # the neuron is linear: x − the mean of the references
for name, selected in [("", 0), ("_agg_neurons", ONE_OF_FOUR)]:
    add(f"neuron/neuron_gradient_shap/test_basic_multilayer_wo_mult_by_inputs{name}", "layers inplace",
        methods.GradientShap(samples=2000), [[1, 20, 10]], selected, [[1, 20, 10]] - TWO_REFERENCES.mean(0),
        baseline=table(TWO_REFERENCES), output="linear1", tolerance=0.16)  # fmt: skip

# --- layer/test_internal_influence, layer/test_layer_conductance -----------------------------

INFLUENCE = methods.InternalInfluence(steps=STEPS, quadrature="trapezoid")
CONDUCTANCE = methods.LayerConductance(steps=STEPS)
NINE_TENTHS = [[0.9, 1, 1, 1]]
LINEAR2_OF_THREE = ([[0, 10, 0]], [[0, 10, 0]], [[0, 5, 0]])
RELU_OF_THREE = ([[0, 10, 1]], [[0, 4, 5]], [[0, 0, 0]])
LINEAR1_OF_THREE = ([[0, 6, 14], [0, 80, 0]], [[0, 6, 14], [0, 20, 0]], [[0, 0, 0], [0, 20, 0]])
for test, model, inputs, expected, options in [
    ("simple_input_internal_inf", "layers", HUNDRED, [[3.9, 3.9, 3.9]], {"wrt": "linear0"}),
    ("simple_input_multi_internal_inf", "layers pair", HUNDRED, (NINE_TENTHS, NINE_TENTHS), {"wrt": "before"}),
    ("simple_linear_internal_inf", "layers", HUNDRED, NINE_TENTHS, {"wrt": "linear1"}),
    ("simple_relu_input_internal_inf_inplace", "layers inplace", HUNDRED, NINE_TENTHS, {"wrt": "linear1"}),
    ("simple_linear_internal_inf_inplace", "layers inplace", HUNDRED, NINE_TENTHS, {"wrt": "linear1"}),
    ("simple_relu_internal_inf", "layers", [[3, 4, 0]], [[1, 1, 1, 1]], {"wrt": "relu"}),
    ("simple_output_internal_inf", "layers", HUNDRED, [[1, 0]], {"wrt": "linear2"}),
    # 1 + the sum of the inputs is above 0 from 0.19 on; Captum says 0.8, with the tolerance 0.01.
    ("simple_with_baseline_internal_inf", "layers", [[0, 80, 0]], [[0.7, 0.81, 0.81, 0.81]],
     {"wrt": "linear1", "baseline": np.array([0, -20, 0])}),
    ("simple_multi_input_linear2_internal_inf", "layers of three × 4", LINEAR2_OF_THREE, [[1, 0]],
     {"wrt": "model.linear2"}),
    ("multiple_linear_internal_inf", "layers", HUNDRED * 4, NINE_TENTHS * 4, {"wrt": "linear1"}),
    ("multiple_with_baseline_internal_inf", "layers", [[0, 80, 0], [30, 30, 0]],
     [[0.7, 0.81, 0.81, 0.81], [0.5, 0.61, 0.61, 0.61]],  # likewise
     {"wrt": "linear1", "baseline": np.array([[0, -20, 0], [-20, -20, 0]])}),
    # The third input stays as it is on the path there; here it moves with them, unless it is 0.
    ("simple_multi_input_relu_internal_inf", "layers of three × 5", RELU_OF_THREE, [[1, 1, 1, 1]],
     {"wrt": "model.relu"}),
    ("simple_multi_input_batch_relu_internal_inf", "layers of three × 5", row(LINEAR1_OF_THREE, 0),
     [[0.95, 1, 1, 1]], {"wrt": "model.linear1"}),
    # Without that, row 1 goes from 5·20 to 5·120: what the baseline (0, 0, 20) says.
    ("simple_multi_input_batch_relu_internal_inf", "layers of three × 5", row(LINEAR1_OF_THREE, 1),
     [[1, 1, 1, 1]], {"wrt": "model.linear1", "baseline": (0.0, 0.0, np.array([0, 20, 0]))}),
]:  # fmt: skip
    add(f"layer/internal_influence/test_{test}", model, INFLUENCE, inputs, 0, expected, tolerance=0.01, **options)
for test, model, inputs, expected, options in [
    ("simple_input_conductance", "layers", HUNDRED, [[0, 390, 0]], {"wrt": "linear0"}),
    ("simple_input_multi_conductance", "layers pair", HUNDRED, (NINETY, NINETY), {"wrt": "multi_relu"}),
    ("simple_input_with_scalar_baseline_conductance", "layers", HUNDRED, [[0, 390, 0]],
     {"wrt": "linear0", "baseline": 0.0}),
    ("simple_linear_conductance", "layers", HUNDRED, NINETY, {"wrt": "linear1"}),
    ("simple_relu_conductance", "layers", HUNDRED, NINETY, {"wrt": "relu"}),
    ("simple_output_conductance", "layers", HUNDRED, [[390, 0]], {"wrt": "linear2"}),
    ("simple_multi_input_linear2_conductance", "layers of three × 4", LINEAR2_OF_THREE, [[390, 0]],
     {"wrt": "model.linear2"}),
    ("simple_multi_input_relu_conductance", "layers of three × 5", RELU_OF_THREE, NINETY, {"wrt": "model.relu"}),
    ("simple_multi_input_relu_conductance_batch", "layers of three × 5",
     ([[0, 10, 1], [0, 0, 10]], [[0, 4, 5], [0, 0, 10]], [[0, 0, 0], [0, 0, 5]]), [*NINETY, [100] * 4],
     {"wrt": "model.relu", "baseline": lambda inputs: (0 * inputs[0], 0 * inputs[1], inputs[2])}),
]:  # fmt: skip
    add(f"layer/layer_conductance/test_{test}", model, CONDUCTANCE, inputs, 0, expected, tolerance=0.1, **options)
for name, layer, inputs, start, shape in [  # the softmax at the end is a constant: 0 everywhere
    ("conv1", "conv1", normal(100, 1, 1, 10, 10), 0.0, (2, 8, 8)),
    ("pool1", "pool1", normal(100, 1, 1, 10, 10), 0.0, (2, 4, 4)),
    ("conv2", "conv2", normal(100, 1, 1, 10, 10), 0.0, (4, 2, 2)),
    ("pool2", "pool2", normal(100, 1, 1, 10, 10), 0.0, (4, 1, 1)),
    ("conv_multi_input", "relu3", normal(100, 4, 1, 10, 10), 0.0, (8,)),
    ("conv_with_baseline", "fc1", normal(100, 3, 1, 10, 10), normal(100, 3, 1, 10, 10), (8,)),
]:
    add(f"layer/layer_conductance/test_matching_{name}_conductance", "conv net 2d", CONDUCTANCE, inputs, 0,
        np.zeros((len(inputs), *shape)), wrt=layer, baseline=start)  # fmt: skip

# --- layer/test_layer_gradient_x_activation, layer/test_layer_integrated_gradients -----------

LINEAR1 = [[90, 101, 101, 101]]
EIGHTS = [[0, 8, 8, 8]]
for test, model, inputs, expected, layer in [
    ("simple_input_gradient_activation", "layers", HUNDRED, [[0, 400, 0]], "linear0"),
    ("simple_linear_gradient_activation", "layers", HUNDRED, LINEAR1, "linear1"),
    ("simple_linear_gradient_activation_no_grad", "layers frozen", HUNDRED, LINEAR1, "linear1"),
    ("multi_layer_linear_gradient_activation", "layers", HUNDRED, [[0, 400, 0]], "linear0"),
    ("multi_layer_linear_gradient_activation", "layers", HUNDRED, LINEAR1, "linear1"),
    ("simple_multi_gradient_activation", "layers pair", [[3, 4, 0]], (EIGHTS, EIGHTS), "multi_relu"),
    ("simple_relu_gradient_activation", "layers", [[3, 4, 0]], EIGHTS, "relu"),
    ("multi_layer_multi_gradient_activation", "layers pair", [[3, 4, 0]], [[9, 12, 0]], "linear0"),
    ("simple_output_gradient_activation", "layers", HUNDRED, [[392, 0]], "linear2"),
    ("simple_gradient_activation_multi_input_linear2", "layers of three × 4", LINEAR2_OF_THREE, [[392, 0]],
     "model.linear2"),
    ("simple_gradient_activation_multi_input_relu", "layers of three × 5", RELU_OF_THREE, LINEAR1, "model.relu"),
]:  # fmt: skip
    file = "layer/layer_gradient_x_activation"
    add(f"{file}/test_{test}", model, "input_x_gradient", inputs, 0, expected, wrt=layer, tolerance=0.01)


def embedded(model: Any, ids: Any, others: Any, more: Any, multiply: bool) -> Tensor:
    """ReLU has one slope for each token, 256 or 0, by the sum of all embeddings, which moves on a line."""
    nodes, weights = np.polynomial.legendre.leggauss(50)
    end, start = model.embedding1(ids), model.embedding1(torch.zeros_like(ids))
    rest = model.embedding2(others, more)
    share = sum(
        w / 2 * ((start + (n + 1) / 2 * (end - start) + rest).sum(-1, keepdim=True) > 0).float()
        for n, w in zip(nodes.tolist(), weights.tolist(), strict=True)
    )
    return 256 * share * (end - start if multiply else torch.ones_like(end))


IDS = (np.array([[2, 5, 0, 1]]), np.array([[0, 2, 4, 1]]), np.array([[2, 3, 0, 1]]))
EMBEDDED_ZERO = MODELS["embeddings"]().embedding1.weight[0].detach().numpy()[None].repeat(4, 0)
IDS_BATCH = tuple(
    map(np.array, ([[2, 5, 0, 1], [3, 1, 1, 0]], [[0, 2, 4, 1], [2, 3, 5, 7]], [[3, 5, 6, 7], [2, 3, 0, 1]]))
)
for name, inputs, multiply in [("", IDS, True), ("_wo_mult_by_inputs", IDS, False), ("_batch", IDS_BATCH, True)]:
    add(f"layer/layer_integrated_gradients/test_compare_with_emb_patching{name}", "embeddings",
        methods.IntegratedGradients(multiply=multiply), inputs, None, partial(embedded, multiply=multiply),
        wrt="embedding1", baseline=EMBEDDED_ZERO, tolerance=0.05)  # fmt: skip

FIFTY, file = [[50, 50, 50]], "layer/layer_integrated_gradients"
LAYER_IG = methods.IntegratedGradients(steps=50)
for name, layer, start, expected in [  # at 0 the layer has (0, 1, 1, 1) and (2, 4); both ways end there
    ("inputs", "relu", np.array([0, 1, 1, 1]), [[140, 150, 150, 150]]),
    ("outputs", "linear2", np.array([2, 4]), [[590, 0]]),
]:
    test = f"{file}/test_compare_with_layer_conductance_attr_to_{name}"
    add(test, "layers", LAYER_IG, FIFTY, 0, expected, wrt=layer, baseline=start, tolerance=0.01)
    add(test, "layers", CONDUCTANCE, FIFTY, 0, expected, wrt=layer, tolerance=0.01)
START = (np.array([0, 1, 1, 1]), np.array([0, 1, 1, 1]))
add(f"{file}/test_multiple_tensors_compare_with_expected", "layers pair", LAYER_IG, HUNDRED, 0, (NINETY, NINETY),
    wrt="multi_relu", baseline=START, tolerance=0.01)  # fmt: skip
add(f"{file}/test_multiple_tensors_compare_with_exp_wo_mult_by_inputs", "layers pair",
    methods.IntegratedGradients(multiply=False), HUNDRED, 0, ([[1] * 4], [[1] * 4]), wrt="multi_relu",
    baseline=START)  # fmt: skip

# --- layer/test_layer_deeplift, neuron/test_neuron_deeplift ----------------------------------

NULL = table(np.zeros((3, 3)), np.zeros((3, 3)))
DROP = ([[0, -1, -1, -1]], [[0, -1, -1, -1]])
INPLACE, PLAIN = "linear relu linear inplace", "linear relu linear"
NONE3 = [[0, 0, 0]]
for shap, deep, multipliers in [("", "deeplift", MULTIPLIERS), ("shap", "deeplift_shap", SHAP_MULTIPLIERS)]:

    def at(*parts: Any, shap: str = shap) -> Any:
        arrays = tuple(np.array(part, np.float32) for part in parts)
        return table(*([part] * 3 for part in parts)) if shap else arrays if len(arrays) > 1 else arrays[0]

    base: Any = NULL if shap else 0.0
    file, model = "layer/layer_deeplift/test", PLAIN if shap else INPLACE
    add(f"{file}_relu_layer_deeplift{shap}", model, deep, RELU_X, None, [[0, 15]], wrt="joined", baseline=at([0, 0]))
    add(f"{file}_relu_layer_deeplift{shap}", model, deep, RELU_X, None, None, wrt="joined", baseline=at([0, 0]),
        tolerance=1e-5)  # fmt: skip
    add(f"{file}_relu_layer_deeplift{shap}_wo_mutliplying_by_inputs", model, multipliers, RELU_X, None, [[0, 1]],
        wrt="joined", baseline=at([0, 0]))  # fmt: skip
    add(f"{file}_relu_layer_deeplift{shap}_multiple_output", "layers pair", deep, RELU_X[0], 0, DROP, wrt="multi_relu",
        baseline=at([0, 1, 1, 1], [0, 1, 1, 1]))  # fmt: skip
    add(f"{file}_linear_layer_deeplift{shap}", INPLACE, deep, RELU_X, None, [[0, 15]], wrt="relu", baseline=at([0, 0]))
    rows, name = (1, "") if shap else (3, "_batch")
    triple = (RELU_X[0] * rows, RELU_X[1] * rows)
    add(f"{file}_linear_layer_deeplift{shap}{name}", INPLACE, deep, triple, None, [[15]] * rows, wrt="l3",
        baseline=at([0]))  # fmt: skip
    if not shap:
        add(f"{file}_relu_layer_deeplift_add_args", "linear relu linear × 3", deep, RELU_X, None, [[0, 45]],
            wrt="joined", baseline=at([0, 0]))  # fmt: skip
        add(f"{file}_linear_layer_deeplift_batch", INPLACE, deep, triple, None, [[0, 15]] * 3, wrt="relu",
            baseline=at([0, 0]))  # fmt: skip
    add(f"{file}_relu_deeplift{shap}_with_custom_attr_func", PLAIN, multipliers, RELU_X, None, [[1]], wrt="l3",
        baseline=at([0]))  # Captum's function doubles it # fmt: skip

    file, neuron = "neuron/neuron_deeplift/test", f"neuron_deeplift{shap and '_shap'}"
    add(
        f"{file}_relu_{neuron}",
        PLAIN if shap else INPLACE,
        deep,
        RELU_X,
        0,
        (NONE3, NONE3),
        output="relu",
        baseline=base,
    )
    add(f"{file}_linear_{neuron}", PLAIN, deep, RELU_X, 0, (NONE3, NONE3), output="relu", baseline=base)
    add(f"{file}_linear_{neuron}", PLAIN, deep, RELU_X, 0, (NONE3, [[6, 9, 0]]), output="l3", baseline=base)
    add(f"{file}_linear_{neuron}_wo_inp_marginal_effects", PLAIN, multipliers, RELU_X, 0, (NONE3, [[2, 3, 0]]),
        output="l3", baseline=base)  # fmt: skip
add("neuron/neuron_deeplift/test_deeplift_compare_with_and_without_inplace", PLAIN, "deeplift", RELU_X, 0,
    (NONE3, NONE3), output="relu")  # fmt: skip
MAXIMA = [[[1, 2, -4], [-3, -2, -1]]]
add("layer/layer_deeplift/test_inplace_maxpool_relu_with_custom_attr_func", "pool relu", MULTIPLIERS, MAXIMA, None,
    [[[1], [0]]], wrt="maxpool")  # fmt: skip
add("layer/layer_deeplift/test_lin_maxpool_lin_classification", "linear pool linear", "deeplift", np.ones((2, 4)), 0,
    [[[-8]], [[-7]]], wrt="pool1", baseline=np.array([[[9]], [[8]]], np.float32))  # fmt: skip
add("neuron/neuron_deeplift/test_lin_maxpool_lin_classification", "linear pool linear", "deeplift", np.ones((2, 4)),
    (0, 0), [[0, 0, 0, -8], [0, -7, 0, 0]], output="pool1", baseline=np.array(POOLED, np.float32))  # fmt: skip
for axes in (2, 3):
    images, start = normal(100, 2, 1, *[10] * axes), np.zeros((2, *[4] * axes), np.float32)
    add(f"layer/layer_deeplift/test_convnet_maxpool{axes}d_classification", f"conv net {axes}d", "deeplift", images, 0,
        np.zeros((2, 2, *[4] * axes)), wrt="pool1", baseline=start, constant=True)  # fmt: skip
    add(f"neuron/neuron_deeplift/test_convnet_maxpool{axes}d_classification", f"conv net {axes}d", "deeplift", images,
        (0,) * (axes + 1), None, output="pool1")  # fmt: skip

# --- neuron/test_neuron_gradient, neuron/test_neuron_integrated_gradients --------------------

PLACES = np.array([1.0, 1.0, 0.0, 0.0])  # slice(0, 2)
HUNDREDS = (HUNDRED, HUNDRED, HUNDRED)
FOURTEEN = ([[0, 6, 14]], [[0, 6, 14]], [[0, 0, 0]])
FIVES, ONE3 = [[0, 5, 4]], [[1, 1, 1]]
for test, model, inputs, target, expected, output, wrt in [
    ("simple_gradient_input_linear2", "layers", HUNDRED, 0, [[4, 4, 4]], "linear2", None),
    ("simple_gradient_input_linear1", "layers", HUNDRED, 0, ONE3, "linear1", None),
    ("simple_gradient_input_relu_inplace", "layers inplace", FIVES, 0, ONE3, "linear1", None),
    ("simple_gradient_input_linear1_inplace", "layers inplace", FIVES, 0, ONE3, "linear1", None),
    ("simple_gradient_input_relu", "layers", FIVES, 0, [[0, 0, 0]], "relu", None),
    ("simple_gradient_input_relu2", "layers", FIVES, 1, ONE3, "relu", None),
    ("simple_gradient_input_relu_selector_fn", "layers", FIVES, np.ones(4), [[3, 3, 3]], "relu", None),
    ("simple_gradient_input_relu2_agg_neurons", "layers", FIVES, PLACES, ONE3, "relu", None),
    ("simple_gradient_multi_input_linear2", "layers of three × 3", HUNDREDS, 0, ([[12] * 3],) * 3, "model.linear2",
     None),
    ("simple_gradient_multi_input_linear1", "layers of three × 5", HUNDREDS, 0, ([[5] * 3],) * 2, "model.linear1",
     ["x1", "x2"]),
]:  # fmt: skip
    add(f"neuron/neuron_gradient/test_{test}", model, "gradient", inputs, target, expected, output=output, wrt=wrt)
SMALL_IMAGES = normal(1, 3, 1, 10, 10)
for layer, places in [("softmax", [(i,) for i in range(10)]), ("relu2", [(i, 0, 0) for i in range(4)])]:
    test = f"neuron/neuron_gradient/test_matching_{'output' if layer == 'softmax' else 'intermediate'}_gradient"
    for place in places:
        expected = partial(slope, target=place, layer=layer)
        add(test, "conv net 2d", "gradient", SMALL_IMAGES, place, expected, output=layer, tolerance=0.001)
for target in range(10):  # the softmax is a constant
    add("neuron/neuron_integrated_gradients/test_matching_output_gradient", "conv net 2d",
        methods.IntegratedGradients(steps=50), normal(100, 2, 1, 10, 10), target, np.zeros((2, 1, 10, 10)),
        output="softmax", baseline=normal(20, 2, 1, 10, 10), tolerance=0.001)  # fmt: skip
NEURON_IG, LATER = methods.IntegratedGradients(steps=200), np.array([0.0, 0.0, 1.0, 1.0])
BATCH_OF_THREE = ([[0, 1.5, 3.5], [0, 40, 0]], [[0, 1.5, 3.5], [0, 10, 0]])
SUM_OF_THREE = ([[0, 10.5, 24.5], [0, 160, 0]], [[0, 10.5, 24.5], [0, 40, 0]])
for test, model, inputs, target, expected, output, wrt in [
    ("simple_ig_input_linear2", "layers", HUNDRED, 0, [[0, 390, 0]], "linear2", None),
    ("simple_ig_input_linear1", "layers", HUNDRED, 0, HUNDRED, "linear1", None),
    ("simple_ig_input_relu", "layers", [[0, 6, 14]], 0, [[0, 3, 7]], "relu", None),
    ("simple_ig_input_relu2", "layers", FIVES, 1, FIVES, "relu", None),
    ("simple_ig_input_relu_selector_fn", "layers", FIVES, LATER, [[0, 10, 8]], "relu", None),
    ("simple_ig_input_relu2_agg_neurons", "layers", FIVES, PLACES, FIVES, "relu", None),
    ("simple_ig_multi_input_linear2", "layers of three × 4", LINEAR2_OF_THREE, 0,
     ([[0, 156, 0]], [[0, 156, 0]], [[0, 78, 0]]), "model.linear2", None),
    ("simple_ig_multi_input_relu", "layers of three × 0.5", FOURTEEN, 0, ([[0, 1.5, 3.5]],) * 2, "model.relu",
     ["x1", "x2"]),
    ("simple_ig_multi_input_relu_batch", "layers of three × 0.5", LINEAR1_OF_THREE, 0, BATCH_OF_THREE, "model.relu",
     ["x1", "x2"]),
    ("simple_ig_multi_input_relu_batch_selector_fn", "layers of three × 0.5", LINEAR1_OF_THREE, np.ones(4),
     SUM_OF_THREE, "model.relu", ["x1", "x2"]),
]:  # fmt: skip
    add(f"neuron/neuron_integrated_gradients/test_{test}", model, NEURON_IG, inputs, target, expected, output=output,
        wrt=wrt, tolerance=0.1)  # fmt: skip
add("neuron/neuron_integrated_gradients/test_simple_ig_input_linear2_wo_mult_by_inputs", "layers",
    methods.IntegratedGradients(steps=200, multiply=False), [[100] * 3], 0, [[3.96] * 3], output="linear2",
    tolerance=0.1)  # fmt: skip

# --- test_lrp, layer/test_layer_lrp ----------------------------------------------------------

SMALLEST = Epsilon(1e-9)  # as in Captum
EPSILON, ONE_TO_THREE = LRP(Composite([], default=SMALLEST)), [[1, 2, 3]]
GAMMAS = LRP(Composite([("linear", Gamma(1, 1e-9)), ("linear2", Gamma(0.25, 1e-9))], default=SMALLEST))
POSITIVE = LRP(Composite([("dense", ZPlus(epsilon=1e-9))], default=SMALLEST))
GAMMA_BEHIND = LRP(Composite([("linear2", Gamma(0.25, 1e-9))], default=SMALLEST))
PLANES = [[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11], [0] * 4]
for test, model, method, inputs, target, expected in [
    ("basic_attributions", "conv", EPSILON, IMAGE, 0, [[PLANES]]),
    ("simple_attributions", "two linear", EPSILON, ONE_TO_THREE, 0, [[18, 36, 54]]),
    ("simple_attributions_batch", "two linear", EPSILON, [[1, 2, 3], [3, 6, 9]], 0, [[18, 36, 54], [54, 108, 162]]),
    ("simple_inplaceReLU", "two linear inplace", EPSILON, ONE_TO_THREE, 0, [[18, 36, 54]]),
    ("simple_tanh", "two linear tanh", EPSILON, ONE_TO_THREE, 0, [[0.0269, 0.0537, 0.0806]]),
    ("simple_attributions_GammaRule", "two linear odd", GAMMAS, ONE_TO_THREE, 0, [[28 / 3, 104 / 3, 52]]),
    ("simple_attributions_AlphaBeta", "two linear odd", POSITIVE, ONE_TO_THREE, 0, [[12, 33.6, 50.4]]),
    ("skip_connection", "skip", EPSILON, [[2, 3]], 1, [[10, 18]]),
    ("maxpool1D", "linear pool", EPSILON, [[[1, 2], [5, 6]]], (1, 0), [[[0, 0], [10, 12]]]),
    ("maxpool2D", "pool 2d", EPSILON, [[[[1, 2], [5, 6]]]], None, [[[[0, 0], [0, 6]]]]),
    ("maxpool3D", "pool 3d", EPSILON, [[[[[1, 2], [5, 6]], [[3, 4], [7, 8]]]]], None,
     [[[[[0, 0], [0, 0]], [[0, 0], [0, 8]]]]]),
    ("ixg_equivalency", "two linear", "input_x_gradient", ONE_TO_THREE, 0, [[18, 36, 54]]),
]:  # fmt: skip
    add(f"lrp/test_lrp_{test}", model, method, inputs, target, expected)
for test, model, method, inputs, expected, layer in [
    ("basic_attributions", "conv", EPSILON, IMAGE, [[[[0, 4], [31, 40]], [[0, 0], [-6, -15]]]], "conv1"),
    ("simple_attributions", "two linear", EPSILON, ONE_TO_THREE, [[36, 36, 36]], "linear"),
    ("simple_inplaceReLU", "two linear inplace", EPSILON, ONE_TO_THREE, [[36, 36, 36]], "act"),
    ("simple_tanh", "two linear tanh", EPSILON, ONE_TO_THREE, [[0.0537] * 3], "linear"),
    ("simple_attributions_GammaRule", "two linear odd", GAMMA_BEHIND, ONE_TO_THREE, [[24, 36, 36]], "linear"),
    ("simple_attributions_AlphaBeta", "two linear odd", POSITIVE, ONE_TO_THREE, [[24, 36, 36]], "linear"),
    ("simple_attributions_all_layers", "two linear", EPSILON, ONE_TO_THREE, [[18, 36, 54]], None),
    ("simple_attributions_all_layers_delta", "two linear", EPSILON, [[1, 2, 3], [2, 4, 6]],
     [[18, 36, 54], [36, 72, 108]], None),
]:  # fmt: skip
    add(f"layer/layer_lrp/test_lrp_{test}", model, method, inputs, 0, expected, wrt=layer)

# --- what is refused: test_occlusion ---------------------------------------------------------

REFUSED: dict[str, tuple[str, Any, Any, Any]] = {  # model, window, stride, inputs
    "improper_window_shape[0]": ("conv", (1, 2), 1, IMAGE),
    "improper_window_shape[1]": ("conv of two", ((1, 1, 2), (1, 1, 1, 2)), 1, (IMAGE, IMAGE)),
    "improper_window_shape[2]": ("conv of two", ((1, 1, 2), (1, 1, 2), (1, 1, 2)), 1, (IMAGE, IMAGE)),
    "improper_stride[0]": ("conv", (1, 2, 2), (1, 2), IMAGE),
    "improper_stride[1]": ("conv of two", ((1, 1, 2), (1, 2, 2)), ((1, 1, 2), (2, 1, 2, 2)), (IMAGE, IMAGE)),
    "improper_stride[2]": ("conv of two", ((1, 1, 2), (1, 2, 2)), ((1, 1, 2), (1, 2, 2), (1, 2, 2)), (IMAGE, IMAGE)),
    "too_large_stride[1]": ("conv of two", ((1, 1, 2), (1, 4, 2)), ((1, 1, 2), (1, 2, 3)), (IMAGE, IMAGE)),
    "too_large_stride[2]": ("conv", (2, 1, 2), 2, IMAGE),
}
