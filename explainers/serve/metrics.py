"""The server's Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..explainer.api import Explainer
from ..scheduler import Scheduler

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """Metrics of requests, and of the scheduler and the explainers."""

    def __init__(self, scheduler: Scheduler, explainers: Mapping[str, Explainer]) -> None:
        self.registry = CollectorRegistry()
        labels = ("model", "verb", "status")
        self.requests = Counter(
            "explainers_requests", "Requests answered; 499: the client went away", labels, registry=self.registry
        )
        self.seconds = Histogram(
            "explainers_request_seconds", "From a request's first byte to its answer's last", ("model", "verb"),
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.registry.register(_Inside(scheduler, explainers))

    def count_answer(self, model: str, verb: str, status: int, seconds: float) -> None:
        self.requests.labels(model, verb, str(status)).inc()
        self.seconds.labels(model, verb).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Inside(Collector):
    def __init__(self, scheduler: Scheduler, explainers: Mapping[str, Explainer]) -> None:
        self.scheduler, self.explainers = scheduler, explainers

    def collect(self) -> Iterator[Metric]:
        stats = self.scheduler.stats
        yield CounterMetricFamily("explainers_calls", "Calls that the scheduler took", value=stats.calls)
        yield CounterMetricFamily("explainers_packages", "Packages run", value=stats.packages)
        yield CounterMetricFamily("explainers_package_rows", "Model evaluations in packages", value=stats.rows)
        yield CounterMetricFamily("explainers_package_places", "Rows that packages had room for", value=stats.places)
        fill = stats.rows / stats.places if stats.places else 0.0
        yield GaugeMetricFamily("explainers_package_fill", "Rows by places since the start", value=fill)
        yield GaugeMetricFamily(
            "explainers_queue_rows", "Evaluations of calls that wait or run", value=stats.waiting_rows
        )
        yield GaugeMetricFamily("explainers_queue_calls", "Calls that wait or run", value=stats.waiting_calls)
        rows = CounterMetricFamily("explainers_rows", "Evaluations of the model", labels=["model"])
        traces = GaugeMetricFamily("explainers_traces", "Kernels compiled since the start", labels=["model"])
        incomplete_samples = CounterMetricFamily(
            "explainers_incomplete", "Instances whose attributions do not add up", labels=["model"]
        )
        for name, explain in self.explainers.items():
            incomplete_samples.add_metric([name], explain.stats.incomplete)
            rows.add_metric([name], explain.stats.rows)
            traces.add_metric([name], explain.stats.traces)
        yield rows
        yield traces
        yield incomplete_samples
