"""Errors of the server speak of the fields of a request, never of Python arguments."""

from __future__ import annotations

import pytest

from explainers.serve.words import for_client


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target 9 at position 0 is out of range. The output has shape (3,) for each of 2 samples. Give an int (the "
         "same for all), a list of 2 of them (one per sample), a mask of shape (3,) or (2, 3), or 'max'.",
         'target 9 at position 0 is out of range. The output has shape [3] for each of 2 instances. Set "target" to an '
         "integer (the same for all), a list of 2 of them (one per instance), a mask of shape [3] or [2, 3], or "
         '"max".'),
        ("target='all' needs a forward-only method", '"target": "all" needs a forward-only method'),
        ("method 'ig' takes one baseline for each sample, not References; 'gradient_shap' averages over references",
         "method 'ig' takes one baseline for each instance, not {\"references\": […]}; 'gradient_shap' averages over "
         "references"),
        ("give a number, one sample (4,), one per sample (2, 4), or References of shape ('B', 4)",
         'give a number, one instance [4], one per instance [2, 4], or {"references": […]} of shape [B, 4]'),
        ("the standard error of sample 0 of 2 is 5e-05 after 9 evaluations; tolerance=1e-09 is asked (2 samples).",
         'the standard error of instance 0 of 2 is 5e-05 after 9 evaluations; "tolerance": 1e-09 is asked '
         "(2 instances)."),
        ("input 'x': NaN in sample 0 of 1. Clean it, or pass allow_nonfinite=True to let it through.",
         "input 'x': NaN in instance 0 of 1."),
        ("samples must be a whole number ≥ 1; got 0", "samples must be a whole number ≥ 1; got 0"),
    ],
)  # fmt: skip
def test_words(text: str, expected: str) -> None:
    assert for_client(text) == expected
