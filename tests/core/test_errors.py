"""The exceptions: what catches them, and how a wrong name is answered."""

from __future__ import annotations

import pytest

from explainers import errors

FAMILY = {
    errors.InputError: ValueError, errors.NonFiniteError: errors.InputError, errors.TargetError: errors.InputError,
    errors.BaselineError: errors.InputError, errors.UnknownNameError: ValueError, errors.TraceError: RuntimeError,
    errors.UnsupportedOperation: RuntimeError, errors.NotConverged: RuntimeError,
    errors.PerturbationError: RuntimeError, errors.BackendMissing: ImportError, errors.ArtifactError: ValueError,
    errors.IncompleteError: RuntimeError, errors.QueueFull: RuntimeError, errors.CandidateFailed: RuntimeError,
    errors.SourceError: RuntimeError, errors.RunInProgress: RuntimeError,
    errors.ForkedProcess: RuntimeError, errors.OutOfMemory: MemoryError,
}  # fmt: skip


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_the_hierarchy(kind: type[Exception]) -> None:
    assert issubclass(kind, FAMILY[kind])
    assert issubclass(kind, errors.ExplainersError)
    assert kind.__doc__


def test_every_error_is_drawn_in_the_docstring() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.ExplainersError)]
    assert set(kinds) == {errors.ExplainersError, *FAMILY}
    for kind in kinds:
        assert kind.__name__ in (errors.__doc__ or "")


def test_few_names_are_all_listed() -> None:
    error = errors.UnknownNameError.among("fruit", "aple", ["pear", "apple"])
    assert str(error) == "unknown fruit 'aple'. Did you mean 'apple'? Known: apple, pear."


def test_of_many_names_the_near_ones_are_listed() -> None:
    names = [f"layer{i}.weight" for i in range(60)]
    message = str(errors.UnknownNameError.among("layer", "layer7.wieght", names, "Look again."))
    assert "Similar names:" in message
    assert "layer7.weight" in message
    assert message.endswith("Look again.")
    assert len(message) < 300


def test_of_many_names_none_near() -> None:
    message = str(errors.UnknownNameError.among("layer", "????", [f"name{i}" for i in range(100)]))
    assert message.endswith("….")
