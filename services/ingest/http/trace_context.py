"""Where a job's trace begins, or a caller's goes on: at the POST that asks for it."""

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.observability import tracing


class TraceContext:
    """ASGI middleware: a POST to one of these paths is a span, and all that it publishes belongs to its trace."""

    def __init__(self, app: ASGIApp, *, paths: Iterable[str]) -> None:
        self._app = app
        self._attributes = {
            path: {"http.request.method": "POST", "url.path": path} for path in paths
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] != "POST"
            or scope["path"] not in self._attributes
        ):
            await self._app(scope, receive, send)
            return
        with tracing.start_trace(
            "accept", _callers(scope), attributes=self._attributes[scope["path"]]
        ):
            await self._app(scope, receive, send)


def _callers(scope: Scope) -> dict[str, str]:
    """The two headers of the W3C; several of `tracestate` are one list."""
    if b"traceparent" not in dict(scope["headers"]):
        return {}
    headers = Headers(scope=scope)
    parents = headers.getlist(tracing.TRACEPARENT_HEADER)
    if len(parents) != 1:  # of two, neither is to be believed
        return {}
    return {
        tracing.TRACEPARENT_HEADER: parents[0],
        tracing.TRACESTATE_HEADER: ",".join(headers.getlist(tracing.TRACESTATE_HEADER)),
    }
