"""Request handling for all protocols: check, queue, wait for the result, and cancel if the client disconnects."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request

from .. import errors
from ..errors import InputError, NonFiniteError, UnknownNameError
from ..explainer.api import Explainer
from ..explainer.explanation import Explanation
from ..run.base import Run
from ..scheduler import Scheduler
from ..spec import STRING, Numpy
from .metrics import Metrics
from .parameters import Arguments, Parameters, Variants
from .settings import Settings
from .words import for_client

Result = TypeVar("Result")
log = logging.getLogger("explainers.serve")
MOST_TEXT = 2000  # characters of an error
LARGE = 1 << 16  # more bytes or numbers than this are processed off the event loop
VERY_LARGE = 1 << 20  # and more than this by a thread of their own


class Refusal(Exception):
    """The request is answered with the HTTP error ``status``."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


class ClientGone(Exception):
    """The client wait_for_disconnect before the answer."""


class Model:
    """A served explainer."""

    def __init__(self, name: str, explain: Explainer, settings: Settings) -> None:
        if explain.method.generates:
            raise InputError(f"{name!r}: Perturbation runs by itself and cannot be served; its samples are users' code")
        if explain.interacting:
            raise InputError(f"{name!r}: its samples see one another, and a server mixes those of several requests")
        for spec in explain.signature.inputs:
            if spec.dtype == STRING:
                raise InputError(f"{name!r}: its input {spec} takes words, which cannot be served: look them up before")
            if spec.words:
                raise InputError(
                    f"{name!r}: its input {spec} is a table in which columns hold no numbers, and requests are arrays "
                    "of numbers. Serve a function of numbers, which makes the table itself"
                )
        self.name, self.explain = name, explain
        self.inputs, self.attributed, self.output = explain.signature.inputs, explain.attributed, explain.output
        self.parameters = Parameters(explain, settings)
        self.variants = Variants(explain, settings)

    def attributions(self, explanation: Explanation) -> list[Numpy]:
        """One array for each attributed value, with the instances on the first axis."""
        return self.parts(explanation.attributions, explanation)

    def parts(self, attributions: Any, explanation: Explanation) -> list[Numpy]:
        arrays = list(attributions) if isinstance(attributions, tuple) else [attributions]
        if isinstance(explanation.target, str):  # "all": output axes lead
            arrays = [np.moveaxis(array, len(self.output.sample_shape), 0) for array in arrays]
        return arrays


@dataclass
class Job:
    """A decoded request: the model, its inputs and the arguments of its explainer."""

    model: Model
    inputs: list[Numpy]
    arguments: Arguments

    @property
    def count(self) -> int:
        return int(self.inputs[0].shape[0])

    @property
    def numbers(self) -> int:
        """How many numbers the answer contains."""
        sizes = self.model.explain.signature.sizes(self.inputs)
        output = math.prod(self.model.output.at(sizes).sample_shape)
        times = output if isinstance(self.arguments.target, str) and self.arguments.target == "all" else 1
        attributed = sum(math.prod(spec.at(sizes).sample_shape) for spec in self.model.attributed)
        return self.count * (output + times * attributed)


class Service:
    """The explainers of a server process, and their scheduler."""

    def __init__(self, explainers: Mapping[str, Explainer], settings: Settings) -> None:
        self.settings = settings
        self.models = {name: Model(name, explain, settings) for name, explain in explainers.items()}
        self.scheduler = Scheduler(
            max_wait=settings.max_wait,
            queue_rows=settings.queue_rows,
            batching=settings.batching,
            package_seconds=settings.package_seconds,
        )
        self.metrics = Metrics(self.scheduler, explainers)
        self.pool = ThreadPoolExecutor(2, thread_name_prefix="explainers serve")
        self.large_pool = ThreadPoolExecutor(1, thread_name_prefix="explainers serve, large")
        self.draining = self.closing = False

    def model(self, name: str) -> Model:
        if name not in self.models:
            raise Refusal(404, str(UnknownNameError.among("model", name, self.models)))
        return self.models[name]

    async def warm(self) -> None:
        """Compile before the first request. A model whose warmup fails on zeros is served nevertheless."""
        for name, model in self.models.items():
            warmup = partial(model.explain.warmup, predict=True)
            try:
                await asyncio.wrap_future(self.scheduler.run(model.explain, warmup))
            except Exception:
                log.warning("no warmup of %r", name, exc_info=True)
            if self.draining:
                return

    async def close(self) -> None:
        """Refuse new requests and finish the accepted ones."""
        self.closing = True
        await asyncio.to_thread(self.scheduler.close)
        self.pool.shutdown()
        self.large_pool.shutdown()

    async def off_loop(self, size: int, function: Callable[[], Result]) -> Result:
        """The result of ``function()``, run in a thread if ``size`` is large; one thread for all that is very large."""
        if size <= LARGE:
            return function()
        pool = self.pool if size <= VERY_LARGE else self.large_pool  # small requests do not wait for large bodies
        return await asyncio.get_running_loop().run_in_executor(pool, function)

    # --- a request -----------------------------------------------------------------------------

    async def body(self, request: Request) -> bytes:
        """The whole body; refused if it is too large or arrives too late."""
        limit, declared = self.settings.max_body, request.headers.get("content-length", "0")
        too_large = Refusal(413, f"the body may have {limit} bytes")
        if declared.isdigit() and (len(declared) > 15 or int(declared) > limit):
            raise too_large

        async def read() -> bytes:
            parts, size = [], 0
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
            return b"".join(parts)

        try:
            return await asyncio.wait_for(read(), self.settings.body_timeout)
        except asyncio.TimeoutError:  # noqa: UP041 (another one on Python 3.10)
            raise Refusal(408, f"the body did not come within {self.settings.body_timeout} s") from None

    async def submit(self, job: Job, watch: Callable[[Run], None] | None = None) -> Future[Explanation]:
        """Queue a request."""
        arguments, count = job.arguments, job.count
        explain = job.model.variants.find(arguments.effort, count)
        if explain is None:
            explain = await self.off_loop(LARGE + 1, lambda: job.model.variants.make(arguments.effort, count))
        size = sum(array.nbytes for array in job.inputs) + getattr(arguments.baseline, "nbytes", 0)
        return await self.off_loop(size, lambda: self._enqueue(explain, job, watch))

    def _enqueue(self, explain: Explainer, job: Job, watch: Callable[[Run], None] | None) -> Future[Explanation]:
        arguments = job.arguments
        request = explain.request(
            *job.inputs, target=arguments.target, baseline=arguments.baseline, seed=arguments.seed,
            groups=arguments.groups,
        )  # fmt: skip
        self._check_size(job, request.rows)
        self._check_open()
        request = replace(request, warns=False)  # the answer lists incomplete instances
        return self.scheduler.enqueue(request, timeout=arguments.timeout, watch=watch)

    def _check_open(self) -> None:
        if self.closing:
            raise Refusal(503, "the server is shutting down", {"Retry-After": "1"})

    def _check_size(self, job: Job, rows: int) -> None:
        settings = self.settings
        if rows > settings.max_effort:
            raise Refusal(
                413, f"{job.count} instances take {rows} evaluations of the model; {settings.max_effort} is the limit"
            )
        if job.numbers > settings.max_elements:
            raise Refusal(413, f"the answer would hold {job.numbers} numbers; {settings.max_elements} is the limit")

    async def explain(self, request: Request, job: Job) -> Explanation:
        """Run the job and return its explanation; cancelled if the client disconnects."""
        return self.check_outputs(await self.wait(request, await self.submit(job)))

    @staticmethod
    def check_outputs(explanation: Explanation) -> Explanation:
        """The explanation, checked to have finite outputs, which JSON can represent."""
        if not np.isfinite(explanation.outputs).all():
            raise NonFiniteError("the model's output is not finite for these instances")
        return explanation

    async def predict(self, request: Request, model: Model, inputs: Sequence[Numpy], timeout: float) -> Numpy:
        """The model's outputs."""
        count = len(inputs[0])
        self._check_size(Job(model, list(inputs), Arguments()), count)
        self._check_open()
        future = self.scheduler.run(model.explain, lambda: model.explain.predict(*inputs), count)
        return np.asarray(await self.wait(request, future, timeout))

    async def wait(self, request: Request, future: Future[Any], timeout: float | None = None) -> Any:
        """The result of ``future``; cancels it if the client disconnects."""
        async_future = asyncio.wrap_future(future)
        disconnection = asyncio.ensure_future(wait_for_disconnect(request))
        try:
            await asyncio.wait({async_future, disconnection}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if async_future.done():
                return async_future.result()
            raise ClientGone if disconnection.done() else TimeoutError
        finally:
            disconnection.cancel()
            async_future.cancel()

    def retry_after(self) -> int:
        """Seconds until the queue will be about empty."""
        stats = [model.explain.stats for model in self.models.values()]
        seconds = sum(s.seconds_running for s in stats)
        rate = sum(s.rows for s in stats) / seconds if seconds else 0.0
        return min(max(1, math.ceil(self.scheduler.stats.waiting_rows / rate) if rate else 1), 60)

    # --- errors --------------------------------------------------------------------------------

    def refusal(self, error: BaseException) -> Refusal | None:
        """The HTTP error for an exception that is not the server's own fault; None for others."""
        if isinstance(error, Refusal):
            return error
        text = for_client(str(error)[:MOST_TEXT])
        if isinstance(error, errors.QueueFull):
            return Refusal(503, text, {"Retry-After": str(self.retry_after())})
        if isinstance(error, MemoryError):
            return Refusal(503, "the request does not fit the server's memory: send fewer instances, or less effort")
        if isinstance(error, TimeoutError):
            return Refusal(504, "the request did not finish within its timeout")
        if isinstance(error, (errors.NonFiniteError, errors.NotConverged, errors.IncompleteError)):
            return Refusal(422, text)
        if isinstance(error, (errors.InputError, errors.UnknownNameError)):
            return Refusal(400, text)
        return None


async def wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
