"""Figures of a running server for Prometheus. No text, no key and no address is in them; keys go by their names."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from smidgen.serving.guard.decisions import Decision
from smidgen.serving.pool import Pool

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"smidgen_{name}", what, labels, registry=self._registry)

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"smidgen_{name}", what, labels, registry=self._registry)

        def histogram(name: str, what: str, *labels: str) -> Histogram:
            return Histogram(f"smidgen_{name}", what, labels, registry=self._registry, buckets=_SECONDS)

        self._requests = counter("requests", "Requests by endpoint and status", "endpoint", "status")
        self._tokens = counter("tokens", "Tokens of prompts and answers", "model", "kind")
        self._key_tokens = counter("key_tokens", "Tokens by the name of the key", "key")
        self._duration = histogram("request_seconds", "From a request to the end of its answer", "endpoint")
        self._first = histogram("time_to_first_token_seconds", "From a request to the first piece", "model")
        self._guard = counter("guard_decisions", "Decisions of the guard", "policy", "on", "verdict")
        self._running = gauge("requests_running", "Requests that an engine works on", "model")
        self._waiting = gauge("requests_waiting", "Requests in the line", "model")
        self._loaded = gauge("model_loaded", "Whether a model is in memory", "model")

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """A request is over. status: as the client saw it; 499 where it had gone."""
        self._requests.labels(endpoint, str(status)).inc()
        self._duration.labels(endpoint).observe(seconds)

    def used(self, model: str, key: str | None, prompt: int, completion: int) -> None:
        """Tokens of one answer."""
        self._tokens.labels(model, "prompt").inc(prompt)
        self._tokens.labels(model, "completion").inc(completion)
        if key is not None:
            self._key_tokens.labels(key).inc(prompt + completion)

    def first_piece(self, model: str, seconds: float) -> None:
        """The first piece of a streamed answer is there."""
        self._first.labels(model).observe(seconds)

    def decided(self, decision: Decision) -> None:
        """The guard has decided."""
        self._guard.labels(decision.policy, decision.on, decision.verdict).inc()

    def page(self, pool: Pool) -> bytes:
        """All figures as Prometheus reads them."""
        loaded = pool.loaded()
        for name in pool.models:
            one = next((it for it in loaded.values() if it.hosted.name == name and not it.hosted.embeds), None)
            self._loaded.labels(name).set(one is not None)
            self._running.labels(name).set(one.line.working if one else 0)
            self._waiting.labels(name).set(one.line.waiting if one else 0)
        return generate_latest(self._registry)
