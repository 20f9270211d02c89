"""OpenAPI: the examples work, and no request that the schema allows causes a server error."""

from __future__ import annotations

from typing import Any

import pytest

from .live import Live
from .nets import explainers


def examples(server: Live) -> list[tuple[str, Any]]:
    document = server.get("/openapi.json").json()
    result = []
    for path, verbs in document["paths"].items():
        content = verbs.get("post", {}).get("requestBody", {}).get("content", {})
        for name, example in content.get("application/json", {}).get("examples", {}).items():
            result.append((path.replace("{name}", name), example["value"]))
    return result


def test_every_example_works(server: Live) -> None:
    result = examples(server)
    assert len(result) == 3 * len(explainers())
    for path, body in result:
        assert server.post(path, json=body).status_code == 200, path


def test_every_route_is_described(server: Live) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    assert {f"{verb} {path}" for path, verbs in paths.items() for verb in verbs} == {
        "get /healthz", "get /metrics", "get /v1/models", "get /v1/models/{name}", "post /v1/models/{name}:explain",
        "post /v1/models/{name}:predict", "get /v2", "get /v2/health/live", "get /v2/health/ready",
        "get /v2/models/{name}", "get /v2/models/{name}/ready", "post /v2/models/{name}/infer",
    }  # fmt: skip
    assert all(verb["summary"] and verb["responses"] for verbs in paths.values() for verb in verbs.values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("most", [8, pytest.param(150, marks=pytest.mark.slow)])
def test_no_request_of_the_schema_is_a_server_error(server: Live, most: int) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    schema = schemathesis.openapi.from_dict(server.get("/openapi.json").json())
    schema.config.base_url = server.url
    statuses: set[int] = set()

    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/metrics":
            continue

        for modes in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @hypothesis.settings(
                max_examples=most, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=modes))
            def check(case: Any) -> None:
                answer = case.call()
                statuses.add(answer.status_code)
                assert answer.status_code < 500, (answer.status_code, answer.text[:500])

            try:
                check()
            except hypothesis.errors.Unsatisfiable:
                continue
    assert statuses >= {200, 400}
