"""DeepLIFT is complete on architectures as people build them, from small random configurations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from explainers import Explainer, methods

GAP = {"float64": 1e-9, "float32": 1e-4}
INTERNAL_FLOAT32 = {"llama": 1e-6, "t5": 2e-6}  # RMSNorm casts to float32 inside: 2e-7 and 6e-7 in a float64 model
TOKENS, WIDTH, VOCABULARY = 6, 16, 23


def bert() -> tuple[Any, dict[str, Any]]:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config), {"wrt": "bert.embeddings", "output": "logits"}


def gpt2() -> tuple[Any, dict[str, Any]]:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=12, n_embd=WIDTH, n_layer=2, n_head=2, num_labels=3, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, use_cache=False,
    )  # fmt: skip
    return GPT2ForSequenceClassification(config), {"wrt": "transformer.wte", "output": "logits"}


def llama() -> tuple[Any, dict[str, Any]]:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=12, num_labels=3, pad_token_id=0, use_cache=False,
    )  # fmt: skip
    return LlamaForSequenceClassification(config), {"wrt": "model.embed_tokens", "output": "logits"}


def t5() -> tuple[Any, dict[str, Any]]:
    import torch
    from transformers import T5Config, T5EncoderModel

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = T5Config(
                vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=24, num_layers=2, num_heads=2, dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
            )  # fmt: skip
            self.encoder = T5EncoderModel(config)
            self.head = torch.nn.Linear(WIDTH, 3)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.head(self.encoder(input_ids, attention_mask).last_hidden_state.mean(1))

    return Classifier(), {"wrt": "encoder.encoder.embed_tokens"}


def vit() -> tuple[Any, dict[str, Any]]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        num_channels=3, num_labels=3,
    )  # fmt: skip
    return ViTForImageClassification(config), {"output": 0}


def resnet() -> tuple[Any, dict[str, Any]]:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=6, hidden_sizes=[8, 12], depths=[1, 2], layer_type="bottleneck", num_labels=3)
    return ResNetForImageClassification(config), {"output": 0}


def convnext() -> tuple[Any, dict[str, Any]]:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        hidden_sizes=[8, 12], depths=[1, 2], num_stages=2, patch_size=2, num_labels=3, layer_scale_init_value=0.5
    )
    return ConvNextForImageClassification(config), {"output": 0}


IMAGES = {"vit": 8, "resnet": 16, "convnext": 8}
TORCH = {"bert": bert, "gpt2": gpt2, "llama": llama, "t5": t5, "vit": vit, "resnet": resnet, "convnext": convnext}


def torch_case(
    name: str, dtype: str, std: float = 0.3
) -> tuple[Any, dict[str, Any], dict[str, np.ndarray], tuple[int, ...]]:
    """Model, options, inputs, and the shape of what is attributed. ``std``: of the weights of transformers."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model, options = TORCH[name]()
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms and biases start at 1 and 0
                torch.nn.init.uniform_(parameter, *((-0.5, 0.5) if "bias" in parameter_name else (0.5, 1.5)))
            elif parameter.ndim == 2 and "transformers" in type(model).__module__:
                torch.nn.init.normal_(parameter, std=std)
        for buffer_name, buffer in model.named_buffers():
            if "running" in buffer_name:
                torch.nn.init.uniform_(buffer, *((0.5, 1.5) if "var" in buffer_name else (-0.2, 0.2)))
    model = model.to(getattr(torch, dtype)).eval()
    generator = np.random.default_rng(0)
    if name in IMAGES:
        shape = (3, IMAGES[name], IMAGES[name])
        return model, options, {"pixel_values": generator.normal(size=(3, *shape)).astype(dtype)}, shape
    ids = generator.integers(1, VOCABULARY, (3, TOKENS))
    mask = np.ones_like(ids)
    mask[0, -2:] = 0
    return model, options, {"input_ids": ids, "attention_mask": mask}, (TOKENS, WIDTH)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["rescale", "revealcancel"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", TORCH)
def test_complete_on_transformers(name: str, dtype: str, rule: str) -> None:
    model, options, inputs, shape = torch_case(name, dtype)
    explain = Explainer.compile(model, methods.DeepLift(rule=rule), inputs=inputs, **options)
    assert not explain.coverage.unsupported
    baseline = np.random.default_rng(1).normal(size=shape).astype(dtype)
    result = explain.explanation(**inputs, target=[1, 2, 1], baseline=baseline)
    check(result, INTERNAL_FLOAT32.get(name, GAP[dtype]) if dtype == "float64" else GAP[dtype])


def check(result: Any, gap: float) -> None:
    change = ((result.outputs - result.baseline_outputs) * result.target).sum(-1)
    assert abs(change).max() > 1e-3
    assert result.approximations == ()
    assert result.largest_gap <= gap


# --- Keras -----------------------------------------------------------------------------------


def multi_head(layers: Any) -> Any:
    import keras

    given = keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4, value_dim=3)(given, given, use_causal_mask=True)
    return keras.Model(given, layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))))


def recurrent(kind: str, **options: Any) -> Any:
    def make(layers: Any) -> Any:
        import keras

        return keras.Sequential([keras.Input((5, 8)), getattr(layers, kind)(4, **options), layers.Dense(3)])

    return make


def application(name: str, size: int, **options: Any) -> Any:
    def make(layers: Any) -> Any:
        import keras

        made = getattr(keras.applications, name)
        return made(weights=None, input_shape=(size, size, 3), classes=3, classifier_activation=None, **options)

    return make


KERAS: dict[str, Any] = {
    "attention": multi_head,
    "lstm": recurrent("LSTM"),
    "lstm unrolled": recurrent("LSTM", unroll=True),
    "lstm backwards": recurrent("LSTM", go_backwards=True),
    "gru": recurrent("GRU"),
    "gru unrolled": recurrent("GRU", unroll=True),
    "gru reset before": recurrent("GRU", reset_after=False),
    "simple rnn": recurrent("SimpleRNN"),
    "resnet50": application("ResNet50", 32),
    "mobilenet": application("MobileNetV3Small", 32, include_preprocessing=False),
    "efficientnet": application("EfficientNetB0", 32),
}
QUICK = ("gru", "simple rnn")
SCALE = {"efficientnet": 255}  # it divides by that
KERAS_GRID = [
    pytest.param(
        name, dtype, rule, id=f"{name}-{dtype}-{rule}",
        marks=[] if name in QUICK and dtype == "float64" else [pytest.mark.slow],
    )
    for name in KERAS
    for dtype in ("float64", "float32")
    for rule in ("rescale", "revealcancel")
]  # fmt: skip


def enliven(model: Any) -> None:
    """Convolutions that keep the size of their signal; as Keras starts them, depthwise ones let little through."""
    generator = np.random.default_rng(3)
    for weight in model.trainable_weights:
        if len(weight.shape) == 4:
            rows, columns, channels, multiplier = weight.shape
            incoming = rows * columns * (1 if multiplier == 1 else channels)
            weight.assign(generator.normal(size=tuple(weight.shape)) * (2 / incoming) ** 0.5)


@pytest.mark.parametrize(("name", "dtype", "rule"), KERAS_GRID)
def test_complete_on_keras(name: str, dtype: str, rule: str) -> None:
    from keras import layers

    from .models_keras import seeded

    model = seeded(lambda: KERAS[name](layers))(dtype)
    x, r = (SCALE.get(name, 1) * np.random.default_rng(0).normal(size=(2, 2, *model.input_shape[1:]))).astype(dtype)
    if name in ("mobilenet", "efficientnet"):
        enliven(model)
    explain = Explainer.compile(model, methods.DeepLift(rule=rule), inputs=x)
    check(explain.explanation(x, target=[0, 2], baseline=r), GAP[dtype])
