"""A server that answers as Replicate, with scripted answers by job. It counts calls and cancels."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.providers.content.image import draw_image
from sandbox.system.home import free_port
from shared.http import server
from tests.support.backend import running_service

PNG = draw_image("a scripted image")
SUCCEEDED: Mapping[str, Any] = {"status": "succeeded"}
Answer = Mapping[str, Any] | Response


def failed(error: Any) -> dict[str, Any]:
    return {"status": "failed", "error": error, "started_at": "2026-11-30T00:00:00Z"}


def png_response() -> Response:
    return Response(PNG, media_type="application/octet-stream")


@dataclass(kw_only=True)
class Plan:
    """The answers about one prediction. Of each sequence the last answer is repeated.

    The first of `views` answers the creation, unless `creation` refuses it. A view that succeeded
    names the server's own file, unless it has an output.
    """

    creation: Response | None = None
    views: Sequence[Answer] = (SUCCEEDED,)
    files: Sequence[Response] = field(default_factory=lambda: (png_response(),))
    after_cancel: Answer | None = None
    hang_s: float = 0.0
    """The creation's answer is late by so much."""


@dataclass(slots=True)
class _Scripted:
    plan: Plan
    reads: int = 0
    fetches: int = 0
    cancelled: bool = False


class ScriptedReplicate:
    """`plans` are by job; the plans of a job serve its creations in turn, and the last repeats."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.pace_s = 0.0
        """A creation sooner than this after the last one is throttled, as on a low credit."""
        self.throttled = 0
        self._created_at = -math.inf
        self.plans: dict[str, list[Plan]] = {}
        self.default = Plan()
        self.creations: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.cancelled: list[str] = []
        """The jobs of the cancelled predictions."""
        self.creation_headers: list[Mapping[str, str]] = []
        self.file_headers: list[Mapping[str, str]] = []
        self._predictions: dict[str, _Scripted] = {}

    def script(self, job: object, *plans: Plan) -> None:
        self.plans[str(job)] = list(plans)

    def application(self) -> Starlette:
        create, cancel = self._create, self._cancel
        return Starlette(
            routes=[
                Route("/v1/models/{owner}/{name}/predictions", create, methods=["POST"]),
                Route("/v1/predictions", create, methods=["POST"]),
                Route("/v1/predictions/{id}", self._read),
                Route("/v1/predictions/{id}/cancel", cancel, methods=["POST"]),
                Route("/v1/files/{id}.png", self._file),
            ]
        )

    async def _create(self, request: Request) -> Response:
        job = request.headers.get("x-blogstream-job", "")
        self.creation_headers.append(dict(request.headers))
        if (wait := self._created_at + self.pace_s - time.monotonic()) > 0:
            self.throttled += 1
            detail = "Request was throttled while you have less than $5.0 in credit."
            return JSONResponse({"detail": detail, "retry_after": math.ceil(wait)}, 429)
        self._created_at = time.monotonic()
        self.creations[job] += 1
        plans = self.plans.get(job, [self.default])
        plan = plans.pop(0) if len(plans) > 1 else plans[0]
        if plan.creation is not None:
            return plan.creation
        name = f"{job or 'prediction'}.{self.creations[job]}"
        self._predictions[name] = _Scripted(plan)
        await asyncio.sleep(plan.hang_s)
        return self._next_view(name, status_code=201)

    async def _read(self, request: Request) -> Response:
        name = request.path_params["id"]
        self.reads[name.partition(".")[0]] += 1
        if name not in self._predictions:
            return JSONResponse({"detail": "not found", "status": 404}, 404)
        return self._next_view(name)

    async def _cancel(self, request: Request) -> Response:
        name = request.path_params["id"]
        self.cancelled.append(name.partition(".")[0])
        scripted = self._predictions[name]
        if isinstance(scripted.plan.after_cancel, Response):
            return scripted.plan.after_cancel
        view = scripted.plan.after_cancel or {"status": "aborted"}
        scripted.plan = Plan(views=[view], files=scripted.plan.files)
        return self._view(name, view, 200)

    async def _file(self, request: Request) -> Response:
        self.file_headers.append(dict(request.headers))
        scripted = self._predictions[request.path_params["id"]]
        files = scripted.plan.files
        scripted.fetches += 1
        return files[min(scripted.fetches, len(files)) - 1]

    def _next_view(self, name: str, status_code: int = 200) -> Response:
        scripted = self._predictions[name]
        views = scripted.plan.views
        view = views[min(scripted.reads, len(views) - 1)]
        scripted.reads += 1
        return view if isinstance(view, Response) else self._view(name, view, status_code)

    def _view(self, name: str, view: Answer, status_code: int) -> Response:
        assert isinstance(view, Mapping)
        output = {"output": f"{self.url}/v1/files/{name}.png"} if view == SUCCEEDED else {}
        return JSONResponse({"id": name, "input": {}, **output, **view}, status_code)


@asynccontextmanager
async def start_scripted_replicate() -> AsyncIterator[ScriptedReplicate]:
    port = free_port()
    scripted = ScriptedReplicate(f"http://127.0.0.1:{port}")
    listener = server.open_listener("127.0.0.1", port)
    async with running_service(partial(server.serve_http, scripted.application(), listener)):
        yield scripted
