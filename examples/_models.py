"""The models of the digits demo: one small residual network in torch and in Keras, and a forest of trees."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Numpy = npt.NDArray[Any]
CHANNELS = 24
CLASSES = 10


@dataclass(frozen=True)
class Digits:
    """Handwritten digits in [0, 1]: images (N, 8, 8) and labels (N,), for training and held out."""

    train_images: Numpy
    train_labels: Numpy
    test_images: Numpy
    test_labels: Numpy


def load_digits() -> Digits:
    """scikit-learn's 1,797 digits, a quarter of each class held out."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    data = load()
    images = (data.images / 16).astype(np.float32)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, data.target, test_size=0.25, stratify=data.target, random_state=0
    )
    return Digits(train_images, train_labels, test_images, test_labels)


def torch_network() -> Any:
    """Convolution, one residual block with BatchNorm, max pooling, linear: (N, 1, 8, 8) → logits (N, 10)."""
    import torch
    from torch import nn

    class ResidualNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(
                nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU()
            )
            self.block = nn.Sequential(
                nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU(),
                nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS),
            )  # fmt: skip
            self.head = nn.Linear(CHANNELS * 16, CLASSES)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.stem(image)
            x = torch.relu(x + self.block(x))
            return self.head(nn.functional.max_pool2d(x, 2).flatten(1))

    return ResidualNet()


def train_torch(digits: Digits, epochs: int = 14) -> tuple[Any, float]:
    """A trained torch module and its accuracy on the held-out digits."""
    import torch
    from torch.nn.functional import cross_entropy

    torch.manual_seed(0)
    network = torch_network()
    images, labels = torch.tensor(digits.train_images[:, None]), torch.tensor(digits.train_labels)
    batches = -(-len(images) // 64)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=epochs * batches)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        outputs = network(torch.tensor(digits.test_images[:, None]))
    return network, accuracy(outputs.numpy(), digits)


def keras_network() -> Any:
    """The same architecture in Keras, ending in a softmax as usual there: (N, 8, 8, 1) → probabilities (N, 10)."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras
    from keras import layers

    def convolved(x: Any) -> Any:
        return layers.BatchNormalization(momentum=0.9)(layers.Conv2D(CHANNELS, 3, padding="same", use_bias=False)(x))

    image = keras.Input((8, 8, 1), name="image")
    stem = layers.ReLU()(convolved(image))
    block = convolved(layers.ReLU()(convolved(stem)))
    x = layers.MaxPooling2D(2)(layers.ReLU()(layers.Add()([stem, block])))
    scores = layers.Dense(CLASSES, activation="softmax")(layers.Flatten()(x))
    return keras.Model(image, scores, name="residual_net")


def train_keras(digits: Digits, epochs: int = 14) -> tuple[Any, float]:
    """A trained Keras model and its accuracy on the held-out digits."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras

    keras.utils.set_random_seed(0)
    network = keras_network()
    steps = epochs * -(-len(digits.train_images) // 64)
    network.compile(
        optimizer=keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.01, steps), weight_decay=1e-3),
        loss="sparse_categorical_crossentropy",
    )
    network.fit(digits.train_images[..., None], digits.train_labels, batch_size=64, epochs=epochs, verbose=0)
    return network, accuracy(network.predict(digits.test_images[..., None], verbose=0), digits)


def train_forest(digits: Digits) -> tuple[Any, float]:
    """Extra trees, which have no derivative, as a function (N, 8, 8) → probabilities (N, 10); and its accuracy."""
    from sklearn.ensemble import ExtraTreesClassifier

    forest = ExtraTreesClassifier(100, random_state=0)
    forest.fit(digits.train_images.reshape(-1, 64), digits.train_labels)

    def predict(images: Numpy) -> Numpy:
        return np.asarray(forest.predict_proba(images.reshape(len(images), -1)))

    return predict, accuracy(predict(digits.test_images), digits)


def accuracy(outputs: Numpy, digits: Digits) -> float:
    """The fraction of held-out digits that are classified correctly."""
    return float((outputs.argmax(axis=1) == digits.test_labels).mean())
