"""State shared by both stand-ins: scripted faults, the bill, and adjustable limits and latency."""

import random
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.providers.bill import Bill
from sandbox.providers.faults import FaultScript
from sandbox.providers.throttle import LimitChange, Throttle, ThrottleStyle
from sandbox.providers.wire import json_response

_TRACE_HEADERS = ("traceparent", "tracestate")
_REMEMBERED_CALLS = 5_000


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
        burst: float | None = None,
        style: ThrottleStyle = "full",
    ) -> None:
        self.provider = provider
        self.bill = Bill()
        self.faults = FaultScript(faults)
        self.throttle = Throttle(limits, time.monotonic(), style=style, burst=burst)
        self._traces: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
        self._calls: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED_CALLS)
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

    def record_call(self, call: dict[str, Any]) -> None:
        """Remember a call: its job, step, path and parameters, and the status it was answered."""
        self._calls.append(call)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.index),
            Route("/standin/bill", self.get_bill),
            Route("/standin/calls", self.get_calls),
            Route("/standin/traces", self.get_traces),
            Route("/standin/faults", self.handle_faults, methods=["GET", "POST", "DELETE"]),
            Route("/standin/limits", self.handle_limits, methods=["GET", "POST"]),
            Route("/standin/latency", self.handle_latency, methods=["GET", "POST"]),
        ]

    async def index(self, request: Request) -> Response:
        text = (
            f"This is a stand-in for {self.provider}: it speaks its protocol, and no model runs.\n"
        )
        return Response(text, media_type="text/plain")

    async def get_bill(self, request: Request) -> Response:
        return json_response(self.bill.as_json())

    async def get_calls(self, request: Request) -> Response:
        """List the latest calls, oldest first; `?job=` selects those of one job."""
        job = request.query_params.get("job")
        return json_response([call for call in self._calls if job in (None, call["job"])])

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

    async def handle_limits(self, request: Request) -> Response:
        """Change the limits and the form of the 429 answers (POST), or return them (GET)."""
        if request.method == "POST":
            try:
                change = LimitChange.model_validate_json(await request.body())
            except ValidationError as error:
                return json_response({"error": str(error)}, 422)
            self.throttle.change(change, time.monotonic())
        return json_response(self.throttle.as_json())

    async def handle_latency(self, request: Request) -> Response:
        """Set the median latency in milliseconds (POST) or return it (GET)."""
        if request.method == "POST":
            self.latency_ms = float(orjson.loads(await request.body())["ms"])
        return json_response({"ms": self.latency_ms})


class OptionsEndpoint:
    """Serves /standin/options: returns a stand-in's options (GET) or changes some (POST)."""

    def __init__(self, options: BaseModel) -> None:
        self._options = options

    def route(self) -> Route:
        return Route("/standin/options", self.handle, methods=["GET", "POST"])

    async def handle(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                changes = orjson.loads(await request.body())
                changed = type(self._options).model_validate(self._options.model_dump() | changes)
            except (ValueError, TypeError) as error:
                return json_response({"error": str(error)}, 422)
            for name in type(self._options).model_fields:
                setattr(self._options, name, getattr(changed, name))
        return json_response(self._options.model_dump(mode="json"))
