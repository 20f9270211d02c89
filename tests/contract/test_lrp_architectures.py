"""LRP on architectures as people write them: finite, each row as it is alone, conserving without constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from explainers import Explainer
from explainers.methods.lrp import ELRP, LRP, Composite, Epsilon, Gamma

from .subjects import assert_close
from .test_lrp import without_constants

pytestmark = pytest.mark.slow
IMAGE = (3, 32, 32)


def transformer(kind: str, head: str, **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        import torch
        import transformers

        torch.manual_seed(2)
        config = getattr(transformers, f"{kind}Config")(**options)
        return getattr(transformers, head)(config).double().eval()

    return build


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IDS = {"vocab_size": 23, "pad_token_id": 0}
TEXT: dict[str, tuple[Callable[[], Any], str]] = {
    "bert": (
        transformer("Bert", "BertForSequenceClassification", **SMALL, **IDS, num_labels=3), "bert.embeddings",
    ),
    "gpt2": (
        transformer(
            "GPT2", "GPT2ForSequenceClassification", n_embd=16, n_layer=2, n_head=2, n_positions=8, vocab_size=23,
            num_labels=3, pad_token_id=22, use_cache=False,
        ),
        "transformer.wte",
    ),
    "llama": (
        transformer(
            "Llama", "LlamaForSequenceClassification", **SMALL, vocab_size=23, num_key_value_heads=1, num_labels=3,
            pad_token_id=22, use_cache=False,
        ),
        "model.embed_tokens",
    ),
}  # fmt: skip
VISION: dict[str, Callable[[], Any]] = {
    "vit": transformer("ViT", "ViTForImageClassification", **SMALL, image_size=32, patch_size=8, num_labels=3),
    "resnet": transformer(
        "ResNet", "ResNetForImageClassification", embedding_size=8, hidden_sizes=[8, 12], depths=[2, 2],
        layer_type="basic", num_labels=3,
    ),
    "convnext": transformer(
        "ConvNext", "ConvNextForImageClassification", hidden_sizes=[8, 12], depths=[2, 2], num_stages=2, num_labels=3
    ),
}  # fmt: skip
METHODS = {
    "epsilon_plus": LRP(),
    "epsilon": LRP("epsilon"),
    "epsilon_plus_flat": LRP("epsilon_plus_flat"),
    "alpha_beta": LRP("alpha_beta"),
    "gamma": LRP(Composite([("conv", Gamma()), ("dense", Gamma(0.05))], default=Epsilon())),
    "elrp": ELRP(),
}


def check(explain: Explainer, inputs: dict[str, np.ndarray]) -> Any:
    """The explanation; finite, of all rows alike alone and together, and of no operation without a rule."""
    assert not explain.coverage.unsupported
    found = explain.explanation(**inputs, target=[0, 1, 2])
    parts = found.attributions
    parts = parts if isinstance(parts, tuple) else tuple(parts.values()) if isinstance(parts, dict) else (parts,)
    assert all(np.isfinite(part).all() and abs(part).max() > 0 for part in parts)
    alone = explain(**{name: array[1:2] for name, array in inputs.items()}, target=1)
    alone = tuple(alone.values()) if isinstance(alone, dict) else (alone,)
    assert_close(list(alone), [part[1:2] for part in parts], 1e-8)
    return parts, found.outputs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TEXT)
def test_text(name: str, method: str) -> None:
    build, layer = TEXT[name]
    ids = np.random.default_rng(0).integers(1, 20, (3, 6))
    inputs = {"input_ids": ids, "attention_mask": np.array([[1] * 6, [1] * 4 + [0] * 2, [1] * 5 + [0]])}
    explain = Explainer.compile(build(), METHODS[method], inputs=inputs, wrt=layer, output="logits")
    check(explain, inputs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", VISION)
def test_vision(name: str, method: str) -> None:
    images = {"pixel_values": np.random.default_rng(0).normal(size=(3, *IMAGE))}
    check(Explainer.compile(VISION[name](), METHODS[method], inputs=images, output="logits"), images)


@pytest.mark.parametrize("method", ["epsilon_plus", "epsilon", "epsilon_plus_flat", "gamma"])
@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_convolutions_conserve(name: str, method: str) -> None:
    images = {"pixel_values": np.random.default_rng(0).normal(size=(3, *IMAGE))}
    model = without_constants("torch", VISION[name]())
    (part,), outputs = check(Explainer.compile(model, METHODS[method], inputs=images, output="logits"), images)
    want = outputs[np.arange(3), np.arange(3)]
    np.testing.assert_allclose(part.sum((1, 2, 3)), want, atol=1e-2 * abs(want).max())


KERAS = {"ResNet50": (32, 32, 3), "MobileNetV3Small": (32, 32, 3), "EfficientNetB0": (32, 32, 3)}


@pytest.mark.parametrize("method", ["epsilon_plus", "epsilon", "elrp"])
@pytest.mark.parametrize("name", KERAS)
def test_keras_applications(name: str, method: str) -> None:
    import keras

    keras.utils.set_random_seed(3)
    model = getattr(keras.applications, name)(weights=None, input_shape=KERAS[name], classes=3)
    for weight in model.weights:
        if weight.name == "moving_variance" and name == "MobileNetV3Small":  # where all vanishes without training
            weight.assign(np.full(weight.shape, 0.1))
    x = np.random.default_rng(0).uniform(0, 255, size=(3, *KERAS[name])).astype("float32")
    explain = Explainer.compile(model, METHODS[method], inputs=x)
    assert not explain.coverage.unsupported
    got = explain(x, target=[0, 1, 2])
    assert np.isfinite(got).all()
    assert abs(got).max() > 0
    assert_close([explain(x[1:2], target=1)], [got[1:2]], 1e-2)  # float32 through a hundred layers
