"""Metrics of HTTP requests: counts, durations, acceptances, and refusals by code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry

from relais_common.jobs.errors import EndedOtherwise, RelaisError
from relais_common.jobs.job import Accepted, Job, Operation, Priority
from relais_common.runtime.metrics import buckets
from relais_common.runtime.metrics.instruments import OTHER, Counter, Gauge, Histogram
from relais_common.runtime.metrics.labels import error_types
from relais_orchestrator.http.traffic import RESPONSE_BEGUN, TRAFFIC, Traffic

CLIENT_GONE = 499
"""The status of a request whose client had left."""

METHODS = ("GET", "HEAD", "POST", "DELETE")


class RequestMetrics:
    """HTTP metrics of one orchestrator.

    Args:
        routes: the templates of all routes.
        submitting: of these, the ones that queue requests.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        models: Iterable[str],
        routes: Iterable[str],
        submitting: Collection[str],
    ) -> None:
        self._submitting = submitting
        routes = frozenset(routes)
        statuses = [str(status.value) for status in HTTPStatus] + [str(CLIENT_GONE)]
        self._requests = Counter(
            registry,
            "relais_http_requests_total",
            "HTTP requests that were answered; a stream counts once it is over.",
            {"method": METHODS, "route": routes, "status": statuses},
        )
        self._seconds = Histogram(
            registry,
            "relais_http_request_duration_seconds",
            "Time until the answer; streams are left out.",
            {"route": routes},
            buckets=buckets.HTTP_S,
        )
        self._in_flight = Gauge(
            registry, "relais_http_requests_in_flight", "HTTP requests that are not over."
        ).of()
        self.turn_wait = Histogram(
            registry,
            "relais_http_request_turn_wait_seconds",
            "How long requests waited for their client's turn to begin.",
            buckets=buckets.DELAY_S,
        ).of()
        self._accepted = Counter(
            registry,
            "relais_requests_accepted_total",
            "Requests that came into the queue.",
            {"model_name": models, "operation": Operation, "priority": Priority},
        )
        self._accepted.start_at_zero()
        self._repeated = Counter(
            registry,
            "relais_requests_repeated_total",
            "Requests that the queue had already, by their Idempotency-Key.",
            {"model_name": models},
        )
        self._rejections = Counter(
            registry,
            "relais_admission_rejections_total",
            "Requests that did not come into the queue, by the code that their client got.",
            {"error_type": error_types()},
        )

    def accepted(self, job: Job, accepted: Accepted) -> None:
        """Count an accepted request."""
        if accepted.duplicate:
            self._repeated.of(job.model).inc()
        else:
            self._accepted.of(job.model, job.operation, job.priority).inc()

    def middleware(self, native: Traffic, openai: Traffic) -> Middleware:
        """Middleware that measures requests; must run inside the one that turns errors into responses.

        Args:
            native, openai: counters of these routes' streams.
        """

        @web.middleware
        async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
            resource = request.match_info.route.resource
            route = OTHER if resource is None else resource.canonical
            traffic = native if route.startswith(("/v1/channels/", "/v1/batches/")) else openai
            request[TRAFFIC] = traffic
            began_s = time.monotonic()
            status = 500
            self._in_flight.inc()
            try:
                response = await handler(request)
                status = response.status
                return response
            except RelaisError as error:
                status = error.status
                if route in self._submitting and not isinstance(error, EndedOtherwise):
                    self._rejections.of(error.code).inc()
                raise
            except web.HTTPException as error:
                status = error.status
                raise
            except (ConnectionError, asyncio.CancelledError):
                status = CLIENT_GONE
                raise
            finally:
                self._in_flight.dec()
                self._requests.of(request.method, route, str(status)).inc()
                if request.get(RESPONSE_BEGUN):
                    traffic.ended += 1
                else:
                    self._seconds.of(route).observe(time.monotonic() - began_s)

        return measure
