"""The expected values of Captum 0.9's own tests: see ``captum_cases`` for them, and ``LEFT_OUT`` for those not here."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from explainers import Explainer, methods
from explainers.errors import IncompleteWarning, InputError

from .captum_cases import CASES, REFUSED, Case
from .captum_models import MODELS


def arrays(inputs: Any) -> tuple[np.ndarray, ...]:
    """Lists are numbers with a fraction; arrays keep their type."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    return tuple(part if isinstance(part, np.ndarray) else np.array(part, np.float32) for part in parts)


FUTURES = "futures"
PROGRESS = "Captum's bar of progress"
NOISE = "noise by NoiseTunnel: states that shapes are those of the inputs, or repeats the case without noise"
LISTS = "several layers at once: wrt= takes one"
UNUSED = "a layer that the output does not depend on: zeros there, an error here"
NO_BATCH = "an output without a batch axis, or one number for a whole batch"
RULE_OBJECTS = "Captum's objects for rules, and the types it refuses"
LEFT_OUT = {  # a test, or the pattern of several, by file
    "*/test_future*": FUTURES,
    "*_future": FUTURES,
    "*show_progress": PROGRESS,
    "*unused_layer": UNUSED,
    "saliency/*_smoothgrad": NOISE,
    "saliency/*vargrad": NOISE,
    "saliency/*_n_samples_batch_size_?": NOISE,
    "saliency/test_saliency_grad_unchanged": "the .grad of a tensor, which nothing here touches",
    "input_x_gradient/*_smoothgrad": NOISE,
    "input_x_gradient/*vargrad": NOISE,
    "integrated_gradients_basic/*_batch_size_?": "nt_samples_batch_size, of which results do not depend",
    "integrated_gradients_classification/*_smoothgrad*": NOISE,
    "integrated_gradients_classification/*_vargrad*": NOISE,
    "deeplift_basic/*_hypothetical_contrib_func": "a user's function of the multipliers; states a shape",
    "deeplift_basic/*_custom_attr_func": "a user's function of the multipliers: 0 times them",
    "deeplift_basic/test_reusable_modules": "Captum refuses a module that runs twice; it is explained here",
    "guided_grad_cam/test_improper_*": "states that the result is empty for inputs and modes that do not fit",
    "occlusion/test_simple_multi_input_int_to_int": "an output of whole numbers; it must be floating-point here",
    "occlusion/test_too_large_stride[0]": "a stride of 2 for axes of 1 covers them whole here",
    "feature_ablation/test_*_conversion": "how torch converts numbers",
    "feature_ablation/test_simple_ablation_int_to_int": "an output of whole numbers; it must be floating-point here",
    "feature_ablation/*_int_input_tensor_and_float_baseline": "a baseline between the values of an input of whole "
    "numbers: the input becomes one of fractions there, and is refused here",
    "feature_ablation/*_with_mask_nt": NOISE,
    "feature_ablation/*_weighted": "an internal switch; the numbers are those of the test without it",
    "feature_ablation/test_error_*": NO_BATCH,
    "feature_ablation/*sparse_features": NO_BATCH,
    "feature_ablation/test_unassociated_output_3d_tensor": NO_BATCH,
    "feature_ablation/test_single_inp_ablation_multi_output_aggr*": NO_BATCH,
    "*_batch_scalar_float": NO_BATCH,
    "*_batch_scalar_tensor_0d": NO_BATCH,
    "*_batch_scalar_tensor_int": NO_BATCH,
    "*_batch_scalar_tensor_expanded": NO_BATCH,
    "*/test_mul*_batch_scalar_*": NO_BATCH,
    "shapley/test_single_shapley_int_*": NO_BATCH,
    "kernel_shap/*_scalar_float": NO_BATCH,
    "kernel_shap/*_scalar_int": NO_BATCH,
    "kernel_shap/*_scalar_tensor_0d": NO_BATCH,
    "kernel_shap/test_multi_inp_kernel_shap_scalar_*": NO_BATCH,
    "gradient_shap/test_classification*": "the gap of 10 draws with noise, of one seed of torch",
    "*lrp/test_lrp_creator*": RULE_OBJECTS,
    "*lrp/test_lrp_simple_repeat_attributions": "that the model is as before",
    "lrp/test_lrp_Identity": "the relevance of a dense layer's output is its input's in the same place: Pass is for "
    "operations that keep their places, and dense layers and convolutions do not take it",
    "lrp/test_lrp_multi": "an argument that is no array and changes nothing",
    "lrp/test_lrp_multi_inputs": "all relevance of a sum goes to each of its terms, since + is no module: the sum of "
    "relevances is off by 104 there; here it is shared by what each term adds",
    "lrp/test_lrp_repeated_module": "Captum refuses a module that runs twice; it is explained here",
    "lrp/test_lrp_simple2_attributions": NO_BATCH,
    "layer/grad_cam/*_split_channels": "a map for each channel, before the sum over them: no option here",
    "layer/grad_cam/*_non_conv": "a layer without places, all of whose units count as channels; refused here",
    "layer/layer_integrated_gradients/test_multiple_layers_*": LISTS,
    "layer/layer_gradient_x_activation/test_gradient_activation_embedding*": "states a shape",
    "layer/layer_gradient_x_activation/test_simple_input_gradient_activation_no_grad": "torch.no_grad around the call; "
    "the numbers are those of the test without it",
    "layer/layer_gradient_shap/test_basic_multi_input": "5 draws of one seed of torch",
    "layer/layer_gradient_shap/test_basic_multilayer": "5 draws of one seed of torch: −8.4, where −12 is the mean",
    "layer/layer_gradient_shap/test_basic_multilayer_compare_w_inp_features": "the same draws, by seed, of two methods",
    "layer/layer_gradient_shap/test_basic_multilayer_with_add_args": "5 draws of one seed of torch",
    "layer/layer_gradient_shap/test_classification": "0 by a tolerance wider than the attributions",
    "neuron/neuron_deeplift/*_custom_attr_func": "a user's function of the multipliers: 0 times them",
    "neuron/neuron_gradient_shap/test_classification": "100 draws, of random weights, within ½",
}


@dataclass(frozen=True)
class Compiled:
    """What is compiled once: the case's model and method, but for how much is evaluated. Methods are equal whatever
    their groups are, so that two of these are the same where their texts are."""

    text: str
    case: Case = field(compare=False)
    method: Any = field(compare=False)

    @classmethod
    def of(cls, case: Case) -> Compiled:
        method = methods.resolve(case.method)
        method = replace(method, **{f.name: f.default for f in fields(method) if f.name in method.effort})
        kinds = [(part.dtype, part.shape[1:]) for part in arrays(case.inputs)]
        return cls(repr((case.model, method, case.wrt, case.output, case.dtype, kinds)), case, method)


@cache
def compiled(found: Compiled) -> Explainer:
    case = found.case
    model, inputs = MODELS[case.model]().eval(), arrays(case.inputs)
    return Explainer.compile(model, found.method, inputs=inputs, wrt=case.wrt, output=case.output, dtype=case.dtype)


def explainer(case: Case) -> Explainer:
    method = methods.resolve(case.method)
    return compiled(Compiled.of(case)).replace(**{name: getattr(method, name) for name in method.effort})


@pytest.fixture(scope="module", autouse=True)
def rarely_collected() -> Iterator[None]:
    """All explainers are kept: to search them for garbage at each compilation takes a third of the time."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, 50, 1000)
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_captum_case(case: Case) -> None:
    inputs = arrays(case.inputs)
    explain = explainer(case)
    with warnings.catch_warnings():
        if case.constant:
            warnings.simplefilter("ignore", IncompleteWarning)
        found = explain.explanation(*inputs, target=case.target, baseline=case.baseline)
    if case.expected is None:
        assert found.completeness_gap is not None
        np.testing.assert_allclose(found.completeness_gap, 0, atol=case.tolerance)
        return
    expected = case.expected
    if callable(expected):
        expected = expected(MODELS[case.model]().eval(), *map(torch.tensor, inputs)).detach()
    got, wanted = (a if isinstance(a, tuple) else (a,) for a in (found.attributions, expected))
    for ours, theirs in zip(got, (np.asarray(part, np.float64) for part in wanted), strict=True):
        assert ours.shape == theirs.shape
        stated = ~np.isnan(theirs)
        np.testing.assert_allclose(np.asarray(ours)[stated], theirs[stated], rtol=0, atol=case.tolerance)


@pytest.mark.parametrize("name", REFUSED)
def test_captum_refuses(name: str) -> None:
    model, window, stride, inputs = REFUSED[name]
    with pytest.raises(InputError):
        Explainer.compile(MODELS[model](), methods.Occlusion(window=window, stride=stride), inputs=arrays(inputs))


@pytest.mark.parametrize("pattern", LEFT_OUT)
def test_what_is_left_out_is_not_here(pattern: str) -> None:
    assert not [case.id for case in CASES if fnmatchcase(case.id.split("[")[0], pattern)]
