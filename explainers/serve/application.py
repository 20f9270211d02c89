"""The web application: routes to the protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from .. import __version__
from ..errors import ExplainersError, InputError
from ..explainer.api import Explainer
from ..explainer.explanation import Explanation
from . import schema, v1, v2
from .arrays import dump
from .middleware import Observe, refused
from .service import Model, Refused, Service
from .settings import Settings
from .stream import Events

JSON = "application/json"


def app(explainers: Mapping[str, Explainer], settings: Settings | None = None, **options: Any) -> FastAPI:
    """The application for any ASGI server.

    Parameters
    ----------
    explainers: by the name that they are served under; each traced, by ``inputs=`` or a first call.
    settings, options: a :class:`Settings`, or its fields.

    Raises
    ------
    InputError: for a name that no URL can have, an explainer that is not traced, or one of ``Perturbation``.
    """
    if not explainers:
        raise InputError("no explainer given")
    for name in explainers:
        if not name or not set(name).isdisjoint("/:?#%") or not name.isprintable():
            raise InputError(f"an explainer cannot be served as {name!r}: a name has none of / : ? # %")
    service = Service(explainers, settings or Settings(**options))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await service.warm()
            yield
        finally:
            await service.close()

    made = FastAPI(title="explainers", version=__version__, lifespan=lifespan, description=schema.DESCRIPTION)
    made.state.service = service
    made.add_middleware(Observe, service=service)
    _add_errors(made, service)
    _add_health(made, service)
    _add_v1(made, service)
    _add_v2(made, service)
    return made


def _json(content: bytes) -> Response:
    return Response(content, media_type=JSON)


def _add_errors(made: FastAPI, service: Service) -> None:
    async def answer(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):  # of the router: no such path, no such verb
            return refused(Refused(error.status_code, str(error.detail), error.headers))
        refusal = service.refusal(error)
        if refusal is None:
            raise error
        return refused(refusal)

    for kind in (HTTPException, Refused, ExplainersError, TimeoutError):
        made.add_exception_handler(kind, answer)


def _add_health(made: FastAPI, service: Service) -> None:
    @made.get("/healthz", tags=["health"], summary="The process runs", responses=schema.EMPTY)
    @made.get("/v2/health/live", tags=["health"], summary="The process runs", responses=schema.EMPTY)
    async def live() -> Response:
        return _json(b'{"live":true}')

    @made.get("/v2/health/ready", tags=["health"], summary="Requests are taken", responses=schema.EMPTY)
    async def ready() -> Response:
        if service.draining or service.closing:
            raise Refused(503, "the server is shutting down", {"Retry-After": "1"})
        return _json(b'{"ready":true}')

    @made.get("/metrics", tags=["health"], summary="Metrics for Prometheus", responses=schema.TEXT)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


# --- KServe V1 ---------------------------------------------------------------------------------


def _add_v1(made: FastAPI, service: Service) -> None:
    models = list(service.models.values())

    @made.get("/v1/models", tags=["V1"], summary="The models", responses=schema.EMPTY)
    async def models_v1() -> Response:
        return _json(dump({"models": list(service.models)}))

    @made.post("/v1/models/{name}:explain", tags=["V1"], **schema.explain_v1(models))
    async def explain(request: Request) -> Response:
        job = await _job(service, request)
        if request.query_params.get("stream", "false").lower() in ("true", "1"):
            events = Events(service, job)
            future = await service.submit(job, events.watch)
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(events.of(request, future), media_type="text/event-stream", headers=headers)
        found = await service.explain(request, job)
        content = await service.off_loop(job.numbers, lambda: v1.encode(job, found))
        return Response(content, headers=_incomplete(found), media_type=JSON)

    @made.post("/v1/models/{name}:predict", tags=["V1"], **schema.predict_v1(models))
    async def predict(request: Request) -> Response:
        job = await _job(service, request)
        timeout = v1.arguments_for_prediction(job).timeout
        outputs = await service.predict(request, job.model, job.inputs, timeout)
        return _json(await service.off_loop(outputs.size, lambda: v1.predictions(outputs)))

    @made.get("/v1/models/{name}", tags=["V1"], summary="A model", **schema.by_name(models))
    async def model_v1(request: Request) -> Response:
        return _json(dump(v1.metadata(_model(service, request))))


def _incomplete(found: Explanation) -> dict[str, str]:
    """How many instances' attributions do not add up, as a header; none where all do."""
    numbers = v1.incomplete(found)
    return {"X-Explainers-Incomplete": str(len(numbers))} if numbers else {}


def _model(service: Service, request: Request) -> Model:
    return service.model(request.path_params["name"])


async def _job(service: Service, request: Request) -> Any:
    model = _model(service, request)
    _check_type(request)
    body = await service.body(request)
    return await service.off_loop(len(body), lambda: v1.decode(model, body))


def _check_type(request: Request) -> None:
    """JSON only: browsers ask before they send it to another site's server; other types they just send."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != JSON and (given or "origin" in request.headers):  # some clients name no type
        raise Refused(415, f"content type {given!r}: {JSON} expected")


# --- Open Inference Protocol V2 ------------------------------------------------------------------


def _add_v2(made: FastAPI, service: Service) -> None:
    models = list(service.models.values())

    @made.get("/v2", tags=["V2"], summary="The server", responses=schema.EMPTY)
    async def server_v2() -> Response:
        return _json(dump(v2.server_metadata()))

    @made.get("/v2/models/{name}", tags=["V2"], summary="A model", **schema.by_name(models))
    async def model_v2(request: Request) -> Response:
        return _json(dump(v2.metadata(_model(service, request))))

    @made.get("/v2/models/{name}/ready", tags=["V2"], summary="Whether it is ready", **schema.by_name(models))
    async def model_ready(request: Request) -> Response:
        return _json(dump({"name": _model(service, request).name, "ready": True}))

    @made.post("/v2/models/{name}/infer", tags=["V2"], **schema.infer_v2(models))
    async def infer(request: Request) -> Response:
        model = _model(service, request)
        header = request.headers.get(v2.HEADER)
        if header is None:
            _check_type(request)
        body = await service.body(request)
        inference = await service.off_loop(len(body), lambda: v2.decode(model, body, header))
        found = await service.explain(request, inference.job)
        content, length = await service.off_loop(inference.job.numbers, lambda: v2.encode(inference, found))
        headers = _incomplete(found)
        if length is None:
            return Response(content, headers=headers, media_type=JSON)
        headers[v2.HEADER] = str(length)
        return Response(content, headers=headers, media_type="application/octet-stream")
