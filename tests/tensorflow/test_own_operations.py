"""Operations that the library does not know, and what `register_operation` says of them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from explainers import Explainer
from explainers.errors import InputError, UnsupportedOperation
from explainers_tensorflow import register_operation


def test_what_is_registered_has_the_rules_of_its_role() -> None:
    rng = np.random.default_rng(0)
    first, last = (tf.Variable(rng.normal(size=shape).astype("float32")) for shape in ((5, 7), (7, 3)))
    x = rng.normal(size=(4, 5)).astype("float32")

    @tf.function(input_signature=[tf.TensorSpec((None, 5), tf.float32)])
    def model(x: tf.Tensor) -> tf.Tensor:
        return tf.math.special.bessel_i0(x @ first) @ last

    with pytest.raises(UnsupportedOperation, match="BesselI0"):
        Explainer.compile(model, "deeplift", inputs=x)
    register_operation("BesselI0", "univariate")
    explain = Explainer.compile(model, "deeplift", inputs=x)
    h, r = x @ first.numpy(), 0.1 * np.ones_like(x) @ first.numpy()
    i0 = np.vectorize(np.i0)
    multiplier = (i0(h) - i0(r)) / (h - r)  # Rescale by hand
    wanted = (multiplier * last.numpy()[:, 1]) @ first.numpy().T * (x - 0.1)
    np.testing.assert_allclose(explain(x, target=1, baseline=0.1), wanted, rtol=2e-4, atol=2e-5)


def test_what_has_a_role_is_refused() -> None:
    with pytest.raises(InputError, match="'Relu' has the role 'univariate' already"):
        register_operation("Relu", "univariate")
