"""The same application on Ray Serve, with as many replicas as the load needs, on one machine or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve

from ..explainer.api import Explainer
from .application import app
from .settings import Settings


def deployment(
    load: Callable[[], Mapping[str, Explainer]],
    *,
    name: str = "explainers",
    min_replicas: int = 1,
    max_replicas: int = 4,
    ongoing: int = 64,
    queued: int = 256,
    actor: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    **options: Any,
) -> Any:
    """An application for ``ray.serve.run``.

    Parameters
    ----------
    load: called in each replica; returns its explainers, compiled or loaded from files there.
    min_replicas, max_replicas: limits on the number of replicas, which Ray adapts to about half of ``ongoing``
        requests per replica.
    ongoing: requests that a replica processes at once; they share its packages.
    queued: requests that may wait for a replica, per proxy; further requests get 503.
    actor: resources of a replica, such as ``{"num_cpus": 4}`` or ``{"num_gpus": 1}``.
    settings, options: a :class:`Settings`, or its fields.
    """
    server_settings = settings or Settings(**options)

    def build() -> FastAPI:
        return app(load(), server_settings)

    ray_deployment = serve.deployment(
        name=name,
        max_ongoing_requests=ongoing,
        max_queued_requests=queued,
        ray_actor_options=dict(actor or {"num_cpus": 1}),
        graceful_shutdown_timeout_s=server_settings.timeout,
        autoscaling_config={
            "min_replicas": min_replicas,
            "max_replicas": max_replicas,
            "target_ongoing_requests": max(1, ongoing // 2),
        },
    )
    return ray_deployment(serve.ingress(build)()).bind()
