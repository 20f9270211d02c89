"""The web application: routes of the protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from .. import __version__
from ..errors import ExplainersError, InputError, shown
from ..explainer.api import Explainer
from ..explainer.explanation import Explanation
from . import schema, v1, v2
from .arrays import dump
from .middleware import Observe, refusal_response
from .service import Model, Refusal, Service
from .settings import Settings
from .stream import Events

JSON = "application/json"


def app(explainers: Mapping[str, Explainer], settings: Settings | None = None, **options: Any) -> FastAPI:
    """The application for any ASGI server.

    Parameters
    ----------
    explainers: by the name under which they are served; each must be traced, by ``inputs=`` or a first call.
    settings, options: a :class:`Settings`, or its fields.

    Raises
    ------
    InputError: a name that cannot be part of a URL, an explainer that is not traced, or the method ``Perturbation``.
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

    application = FastAPI(title="explainers", version=__version__, lifespan=lifespan, description=schema.DESCRIPTION)
    application.state.service = service
    application.add_middleware(Observe, service=service)
    _add_errors(application, service)
    _add_health(application, service)
    _add_v1(application, service)
    _add_v2(application, service)
    return application


def _json(content: bytes) -> Response:
    return Response(content, media_type=JSON)


def _add_errors(application: FastAPI, service: Service) -> None:
    async def answer(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):  # raised by the router: no such path or verb
            return refusal_response(Refusal(error.status_code, str(error.detail), error.headers))
        refusal = service.refusal(error)
        if refusal is None:
            raise error
        return refusal_response(refusal)

    for kind in (HTTPException, Refusal, ExplainersError, TimeoutError, MemoryError):
        application.add_exception_handler(kind, answer)


def _add_health(application: FastAPI, service: Service) -> None:
    @application.get("/healthz", tags=["health"], summary="The process runs", responses=schema.EMPTY)
    @application.get("/v2/health/live", tags=["health"], summary="The process runs", responses=schema.EMPTY)
    async def live() -> Response:
        return _json(b'{"live":true}')

    @application.get("/v2/health/ready", tags=["health"], summary="Requests are taken", responses=schema.EMPTY)
    async def ready() -> Response:
        if service.draining or service.closing:
            raise Refusal(503, "the server is shutting down", {"Retry-After": "1"})
        return _json(b'{"ready":true}')

    @application.get("/metrics", tags=["health"], summary="Metrics for Prometheus", responses=schema.TEXT)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


# --- KServe V1 ---------------------------------------------------------------------------------


def _add_v1(application: FastAPI, service: Service) -> None:
    models = list(service.models.values())

    @application.get("/v1/models", tags=["V1"], summary="The models", responses=schema.EMPTY)
    async def models_v1() -> Response:
        return _json(dump({"models": list(service.models)}))

    @application.post("/v1/models/{name}:explain", tags=["V1"], **schema.explain_v1(models))
    async def explain(request: Request) -> Response:
        job = await _job(service, request)
        if request.query_params.get("stream", "false").lower() in ("true", "1"):
            events = Events(service, job)
            future = await service.submit(job, events.watch)
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(events.of(request, future), media_type="text/event-stream", headers=headers)
        explanation = await service.explain(request, job)
        content = await service.off_loop(job.numbers, lambda: v1.encode(job, explanation))
        return Response(content, headers=_incomplete_header(explanation), media_type=JSON)

    @application.post("/v1/models/{name}:predict", tags=["V1"], **schema.predict_v1(models))
    async def predict(request: Request) -> Response:
        job = await _job(service, request)
        timeout = v1.arguments_for_prediction(job).timeout
        outputs = await service.predict(request, job.model, job.inputs, timeout)
        return _json(await service.off_loop(outputs.size, lambda: v1.predictions(outputs)))

    @application.get("/v1/models/{name}", tags=["V1"], summary="A model", **schema.by_name(models))
    async def model_v1(request: Request) -> Response:
        return _json(dump(v1.metadata(_model(service, request))))


def _incomplete_header(explanation: Explanation) -> dict[str, str]:
    """A header with the number of instances whose attributions do not add up; empty if all do."""
    numbers = v1.incomplete_instances(explanation)
    return {"X-Explainers-Incomplete": str(len(numbers))} if numbers else {}


def _model(service: Service, request: Request) -> Model:
    return service.model(request.path_params["name"])


async def _job(service: Service, request: Request) -> Any:
    model = _model(service, request)
    _check_type(request)
    body = await service.body(request)
    return await service.off_loop(len(body), lambda: v1.decode(model, body))


def _check_type(request: Request) -> None:
    """Accept only JSON: browsers send other content types across sites without a preflight request."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != JSON and (content_type or "origin" in request.headers):  # some clients send no content type
        raise Refusal(415, f"content type {shown(content_type)}: {JSON} expected")


# --- Open Inference Protocol V2 ------------------------------------------------------------------


def _add_v2(application: FastAPI, service: Service) -> None:
    models = list(service.models.values())

    @application.get("/v2", tags=["V2"], summary="The server", responses=schema.EMPTY)
    async def server_v2() -> Response:
        return _json(dump(v2.server_metadata()))

    @application.get("/v2/models/{name}", tags=["V2"], summary="A model", **schema.by_name(models))
    async def model_v2(request: Request) -> Response:
        return _json(dump(v2.metadata(_model(service, request))))

    @application.get("/v2/models/{name}/ready", tags=["V2"], summary="Whether it is ready", **schema.by_name(models))
    async def model_ready(request: Request) -> Response:
        return _json(dump({"name": _model(service, request).name, "ready": True}))

    @application.post("/v2/models/{name}/infer", tags=["V2"], **schema.infer_v2(models))
    async def infer(request: Request) -> Response:
        model = _model(service, request)
        header = request.headers.get(v2.HEADER)
        if header is None:
            _check_type(request)
        body = await service.body(request)
        inference = await service.off_loop(len(body), lambda: v2.decode(model, body, header))
        explanation = await service.explain(request, inference.job)
        content, length = await service.off_loop(inference.job.numbers, lambda: v2.encode(inference, explanation))
        headers = _incomplete_header(explanation)
        if length is None:
            return Response(content, headers=headers, media_type=JSON)
        headers[v2.HEADER] = str(length)
        return Response(content, headers=headers, media_type="application/octet-stream")
