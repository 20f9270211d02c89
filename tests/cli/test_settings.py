"""Values of ``--set`` have the types of the parameters that they set; errors name the option's words."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import methods, metrics
from explainers.cli import sources
from explainers.errors import ExplainersError, InputError

from ..test_cli import refused

ODD = ("x", "-1", "0", "1.5", "null", "true", "[1,2]", "[]", "{}", '"median"', "NaN", "1e999", "False", "@odd.npy")
KINDS: dict[str, Any] = {**methods.METHODS, **{name: kind() for name, kind in metrics.METRICS.items()}}


@pytest.mark.parametrize("name", KINDS)
def test_odd_values_are_taken_or_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is given for a parameter, it is of the parameter's type afterwards, or an error of this library."""
    monkeypatch.chdir(tmp_path)
    np.save("odd.npy", np.zeros((3, 4)))
    value = KINDS[name]
    kinds = sources.kinds(value)
    for field in dataclasses.fields(value):
        for text in ODD:
            try:
                changed = dataclasses.replace(value, **sources.parameters([f"{field.name}={text}"], kinds))
            except ExplainersError:
                continue
            given = getattr(changed, field.name)
            if kinds[field.name] is bool:
                assert isinstance(given, bool), (field.name, text)
            if kinds[field.name] in (int, float):
                assert isinstance(given, (int, float)), (field.name, text)
                assert not isinstance(given, bool), (field.name, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("false", False), ("False", False), ("true", True), ("True", True)],
)
def test_false_is_false(text: str, expected: bool) -> None:
    assert sources.method("deeplift", [f"multiply={text}"]).multiply is expected  # type: ignore[attr-defined]


def test_none_and_null_are_none() -> None:
    for text in ("None", "null"):
        assert sources.method("integrated_gradients", [f"tolerance={text}"]) == methods.IntegratedGradients()
    assert sources.method("rise", ["axes=[0,1]"]) == methods.Rise(axes=(0, 1))
    assert sources.method("lime", ["kernel_width=1"]) == methods.Lime(kernel_width=1)


@pytest.mark.parametrize("text", ["no", "0", "1", "null", '"False"'])
def test_what_is_no_boolean_is_not_taken_for_true(text: str) -> None:
    with pytest.raises(InputError, match="multiply must be a valid boolean; got "):
        sources.method("deeplift", [f"multiply={text}"])


NEW = ("compile", "net.py:model", "-o", "a.explainer", "--inputs", "float32[4]")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((*NEW, "smoothgrad", "--set", "noise=much"), 'noise must be a valid number; got "much"'),
        ((*NEW, "shapley_sampling", "--set", "tolerance=x"), 'tolerance must be a valid number or null; got "x"'),
        ((*NEW, "integrated_gradients", "--set", "steps=many"), 'steps must be a valid integer; got "many"'),
        ((*NEW, "integrated_gradients", "--set", "steps=@x.npy"), "steps must be a valid integer; got an array of"),
        ((*NEW, "integrated_gradients", "--set", "tolerance=-1"), "tolerance must be above 0, or null; got -1"),
        ((*NEW, "deeplift", "--set", "hypothetical=true"), "--set hypothetical=true takes samples that are one-hot"),
        (("run", "ig.explainer", "x.npy", "-o", "a.npy", "--set", "steps=1.5"), "steps must be a valid"),
        (("serve", "ig.explainer", "--set", "timeout=long"), 'timeout must be a valid number; got "long"'),
        (("serve", "ig.explainer", "--set", "batching=no"), 'batching must be a valid boolean; got "no"'),
        (("evaluate", "ig.explainer", "--inputs", "x.npy", "--metric", "deletion:steps=x"), "steps must be a valid"),
        (("compare", "net.py:model", "--methods", "lime", "--inputs", "x.npy", "--set", "samples=x"), "samples must"),
    ],
    ids=lambda value: f"{value[0]}-{value[-1]}" if isinstance(value, tuple) else "",
)  # fmt: skip
def test_errors_of_settings_speak_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: str
) -> None:
    import torch

    from explainers import Explainer, serve

    monkeypatch.setattr(serve, "run", lambda *given, **limits: pytest.fail("the server began"))

    (tmp_path / "net.py").write_text("import torch\nmodel = torch.nn.Linear(4, 3)\n")
    np.save(tmp_path / "x.npy", np.ones((3, 4), "float32"))
    explain = Explainer.compile(torch.nn.Linear(4, 3), "integrated_gradients", inputs=torch.zeros(1, 4))
    explain.save(tmp_path / "ig.explainer")
    text = refused(tmp_path, *arguments)
    assert expected in text
    assert not re.search(r"\b(None|True|False)\b", text), text
