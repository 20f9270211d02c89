"""A TensorFlow model evaluated and differentiated by GradientTape, in inference, outside the library."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from .cases import Case

Arrays = list[np.ndarray]


@tf.RegisterGradient("TestsGuidedRelu")
def _guided(operation: Any, message: Any) -> Any:
    keep = tf.logical_and(operation.inputs[0] > 0, message > 0)
    return tf.where(keep, message, tf.zeros_like(message))


@tf.RegisterGradient("TestsDeconvolvedRelu")
def _deconvolved(operation: Any, message: Any) -> Any:
    return tf.where(message > 0, message, tf.zeros_like(message))


BENT = {"guided_backprop": "TestsGuidedRelu", "deconvnet": "TestsDeconvolvedRelu"}


class TensorFlowReference:
    def __init__(self, case: Case, model: Any) -> None:
        self.case, self.model = case, model
        self.head, self.tail = case.layer(model) if case.layer else (None, None)
        self.bent: dict[str, Any] = {}

    def _run(self, points: list[Any], inputs: list[Any]) -> Any:
        if self.tail is not None:
            return self.tail(points[0], *inputs)
        arrays = list(inputs)
        for place, point in zip(self.case.floating, points, strict=True):
            arrays[place] = point
        packed = self.case.packed or len(arrays) == 1
        given = (arrays if len(arrays) > 1 else arrays[0],) if packed else arrays
        return self.case.pick(self.model(*given, training=False))

    def points(self, inputs: Arrays) -> Arrays:
        if self.head is not None:
            return [self.head(tf.constant(inputs[0])).numpy()]
        return [inputs[place] for place in self.case.floating]

    def output(self, points: Arrays, inputs: Arrays) -> np.ndarray:
        tensors = [tf.constant(p) for p in points]
        return self._run(tensors, [tf.constant(a) for a in inputs]).numpy()

    def gradient(self, points: Arrays, inputs: Arrays, mask: np.ndarray, rule: str) -> Arrays:
        tensors = [tf.constant(p) for p in points]
        constants = [tf.constant(a) for a in inputs]
        if rule == "gradient":
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                out = self._run(tensors, constants)
                scalar = tf.reduce_sum(out * tf.cast(mask, out.dtype))
            found = tape.gradient(scalar, tensors)
        else:
            found = self._bent(rule)(tensors, constants, tf.constant(mask))
        return [np.zeros_like(p) if g is None else g.numpy() for p, g in zip(points, found, strict=True)]

    def _bent(self, rule: str) -> Any:
        """The gradient with every Relu's derivative replaced, by TensorFlow's own override map."""

        @tf.function
        def run(tensors: list[Any], constants: list[Any], mask: Any) -> list[Any]:
            with tf.compat.v1.get_default_graph().gradient_override_map({"Relu": BENT[rule]}):
                out = self._run(tensors, constants)
            return tf.gradients(tf.reduce_sum(out * tf.cast(mask, out.dtype)), tensors)

        return self.bent.setdefault(rule, run)
