"""State shared by both stand-ins: scripted faults, the bill, and adjustable limits and latency."""

import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.providers.bill import Bill
from sandbox.providers.bucket import MinuteBucket
from sandbox.providers.faults import FaultScript


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(content), status, dict(headers or {}), "application/json")


class CutResponse(Response):
    """Sends the start of a response and then breaks the connection."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"1000")],
            }
        )
        await send({"type": "http.response.body", "body": b'{"id"', "more_body": True})
        raise ConnectionError("cut, as scripted")


_TRACE_HEADERS = ("traceparent", "tracestate")


class StandinControl:
    """The state of one stand-in and its control endpoints. `limits` are units per minute."""

    def __init__(
        self,
        *,
        provider: str,
        limits: Mapping[str, float],
        latency_ms: float,
        seed: int,
        faults: set[str],
    ) -> None:
        self.provider = provider
        self.bill = Bill()
        self.faults = FaultScript(faults)
        self._traces: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
        self.buckets = {
            name: MinuteBucket(limit, time.monotonic()) for name, limit in limits.items()
        }
        self.latency_ms = latency_ms
        self.rng = random.Random(seed)

    def latency_s(self) -> float:
        """Draw a latency: log-normal around the median, as real providers behave."""
        return self.latency_ms / 1000 * self.rng.lognormvariate(0, 0.35)

    def record_trace(self, job: str, request: Request) -> None:
        """Remember the W3C trace context of a job's call."""
        context = {
            name: value
            for name in _TRACE_HEADERS
            if (value := request.headers.get(name)) is not None
        }
        if context:
            self._traces[job].append(context)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.index),
            Route("/standin/bill", self.get_bill),
            Route("/standin/traces", self.get_traces),
            Route("/standin/faults", self.handle_faults, methods=["GET", "POST", "DELETE"]),
            Route("/standin/limits", self.change_limits, methods=["POST"]),
            Route("/standin/latency", self.handle_latency, methods=["GET", "POST"]),
        ]

    async def index(self, request: Request) -> Response:
        text = (
            f"This is a stand-in for {self.provider}: it speaks its protocol, and no model runs.\n"
        )
        return Response(text, media_type="text/plain")

    async def get_bill(self, request: Request) -> Response:
        return json_response(self.bill.as_json())

    async def get_traces(self, request: Request) -> Response:
        return json_response(self._traces)

    async def handle_faults(self, request: Request) -> Response:
        """Add faults (POST), list the remaining ones (GET), or delete them all (DELETE)."""
        if request.method == "POST":
            try:
                self.faults.add_faults(orjson.loads(await request.body()))
            except ValueError as error:
                return json_response({"error": str(error)}, 422)
        elif request.method == "DELETE":
            self.faults.clear_faults()
        return json_response(self.faults.remaining())

    async def change_limits(self, request: Request) -> Response:
        for name, limit in orjson.loads(await request.body()).items():
            self.buckets[name].resize(float(limit), time.monotonic())
        return json_response({name: bucket.limit for name, bucket in self.buckets.items()})

    async def handle_latency(self, request: Request) -> Response:
        """Set the median latency in milliseconds (POST) or return it (GET)."""
        if request.method == "POST":
            self.latency_ms = float(orjson.loads(await request.body())["ms"])
        return json_response({"ms": self.latency_ms})


def with_standin_header(
    provider: str, handler: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """Wrap a handler so that its responses carry the `x-standin` header."""

    async def with_label(request: Request) -> Response:
        response = await handler(request)
        response.headers["x-standin"] = provider
        return response

    return with_label
