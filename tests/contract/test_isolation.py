"""Invariant 9 and "Must show" 6: the core is free of frameworks, and using one never imports the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from .child import run

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "transformers")
LOADED = f"sorted({{name.partition('.')[0] for name in sys.modules}} & set({FRAMEWORKS!r}))"


def test_core_imports_and_runs_with_every_framework_blocked(tmp_path: Path) -> None:
    script = """
        import json, pkgutil, importlib, numpy as np
        import explainers
        for found in pkgutil.walk_packages(explainers.__path__, "explainers."):
            if found.name != "explainers.serve.ray":  # needs ray
                importlib.import_module(found.name)
        explain = explainers.Explainer.compile(lambda x: x @ np.ones((4, 2)), "feature_ablation")
        print(json.dumps(explain(np.ones((1, 4)), target=1).tolist()))
    """
    assert run(script, tmp_path, blocked=FRAMEWORKS) == [[1.0, 1.0, 1.0, 1.0]]


def test_the_tests_of_the_core_pass_with_every_framework_blocked(tmp_path: Path) -> None:
    script = f"""
        import json, os, sys, pytest
        os.chdir({str(ROOT)!r})
        sys.path.insert(0, os.getcwd())
        code = pytest.main(["tests/core", "-q", "-x", "-p", "no:cacheprovider"])
        print(json.dumps([int(code), {LOADED}]))
    """
    assert run(script, tmp_path, blocked=FRAMEWORKS) == [0, []]


def test_importing_imports_no_framework(tmp_path: Path) -> None:
    script = f"""
        import json, sys
        import explainers, explainers_torch, explainers_tensorflow, explainers_numpy
        from explainers.backend import backends
        names = list(backends())
        print(json.dumps([names, {LOADED}]))
    """
    assert run(script, tmp_path) == [["tensorflow", "torch", "numpy"], []]


def test_importing_loads_numpy_and_little_else(tmp_path: Path) -> None:
    """What takes time to import comes with what needs it: the server, the command, pictures, files, comparisons."""
    script = """
        import json, sys
        import explainers
        outside = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
        print(json.dumps(sorted(name for name in outside if not name.startswith("_"))))
    """
    assert set(run(script, tmp_path)) <= {"explainers", "numpy", "safetensors", "sitecustomize"}


def test_torch_never_imports_tensorflow(tmp_path: Path) -> None:
    script = f"""
        import json, sys, torch
        from explainers import Explainer
        for engine in ("torchscript", "eager"):
            explain = Explainer.compile(torch.nn.Linear(3, 2), "integrated_gradients", engine=engine)
            explain(torch.ones(2, 3), target=1)
            explain.explanation(torch.ones(2, 3).numpy(), target=1)
        print(json.dumps({LOADED}))
    """
    assert run(script, tmp_path) == ["torch"]


def test_tensorflow_never_imports_torch(tmp_path: Path) -> None:
    script = f"""
        import json, sys, numpy as np, keras
        from explainers import Explainer
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        for engine in ("graph", "eager"):
            explain = Explainer.compile(model, "integrated_gradients", engine=engine)
            explain(np.ones((2, 3), "float32"), target=1)
        print(json.dumps({LOADED}))
    """
    assert run(script, tmp_path, KERAS_BACKEND="tensorflow") == ["keras", "tensorflow"]


def test_numpy_imports_neither(tmp_path: Path) -> None:
    script = f"""
        import json, sys, numpy as np
        from explainers import Explainer
        Explainer.compile(lambda x: x.sum(1), "feature_ablation")(np.ones((2, 3)))
        print(json.dumps({LOADED}))
    """
    assert run(script, tmp_path) == []


@pytest.mark.parametrize(("name", "blocked"), [("torch", ("torch",)), ("tensorflow", ("tensorflow", "keras"))])
def test_a_framework_that_is_missing_names_the_extra(name: str, blocked: tuple[str, ...], tmp_path: Path) -> None:
    script = f"""
        import json, importlib.util
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda n, *rest: None if n in {blocked!r} else found(n, *rest)
        import numpy as np
        from explainers import Explainer, errors
        try:
            Explainer.compile(lambda x: x, "gradient", backend={name!r})
            said = "no error"
        except errors.BackendMissing as error:
            said = f"{{isinstance(error, ImportError)}} {{error}}"
        Explainer.compile(lambda x: x.sum(1), "feature_ablation")(np.ones((2, 3)))  # the rest goes on working
        print(json.dumps(said))
    """
    said = run(script, tmp_path, blocked=blocked)
    assert said.startswith("True ")
    assert f"pip install 'explainers[{name}]'" in said
