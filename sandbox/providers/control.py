"""What both stand-ins share: scripted faults, the bill, limits and latency that can be changed while they run."""

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


def json(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, dict(headers or {}), "application/json")


class CutResponse(Response):
    """Begins an answer and breaks the connection."""

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


class Control:
    """One stand-in's state. `limits` are units a minute by resource."""

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
        """A latency with the spread of the real thing: log-normal around the median."""
        return self.latency_ms / 1000 * self.rng.lognormvariate(0, 0.35)

    def note_trace(self, job: str, request: Request) -> None:
        """Remember the W3C trace context that came with a job's call."""
        told = {
            name: value
            for name in _TRACE_HEADERS
            if (value := request.headers.get(name)) is not None
        }
        if told:
            self._traces[job].append(told)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.index),
            Route("/standin/bill", self.get_bill),
            Route("/standin/traces", self.get_traces),
            Route("/standin/faults", self.script, methods=["GET", "POST", "DELETE"]),
            Route("/standin/limits", self.change_limits, methods=["POST"]),
            Route("/standin/latency", self.latency, methods=["GET", "POST"]),
        ]

    async def index(self, request: Request) -> Response:
        text = (
            f"This is a stand-in for {self.provider}: it speaks its protocol, and no model runs.\n"
        )
        return Response(text, media_type="text/plain")

    async def get_bill(self, request: Request) -> Response:
        return json(self.bill.as_json())

    async def get_traces(self, request: Request) -> Response:
        return json(self._traces)

    async def script(self, request: Request) -> Response:
        """POST a list of faults, GET what is left of them, DELETE them all."""
        if request.method == "POST":
            try:
                self.faults.add(orjson.loads(await request.body()))
            except ValueError as error:
                return json({"error": str(error)}, 422)
        elif request.method == "DELETE":
            self.faults.clear()
        return json(self.faults.left())

    async def change_limits(self, request: Request) -> Response:
        for name, limit in orjson.loads(await request.body()).items():
            self.buckets[name].resize(float(limit), time.monotonic())
        return json({name: bucket.limit for name, bucket in self.buckets.items()})

    async def latency(self, request: Request) -> Response:
        if request.method == "POST":
            self.latency_ms = float(orjson.loads(await request.body())["ms"])
        return json({"ms": self.latency_ms})


def labelled(
    provider: str, handler: Callable[[Request], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """Every answer says that it comes from a stand-in."""

    async def with_label(request: Request) -> Response:
        response = await handler(request)
        response.headers["x-standin"] = provider
        return response

    return with_label
