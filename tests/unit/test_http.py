"""What every answer says to browsers and caches, unless its handler has said it."""

from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Route

from shared.http import JsonResponse, Problem, SafeHeaders


async def _json(request: Request) -> Response:
    return JsonResponse({"x": 1})


async def _refused(request: Request) -> Response:
    raise Problem(401, "Unauthorized")


async def _page(request: Request) -> Response:
    return HTMLResponse("<p>", headers={"Content-Security-Policy": "default-src 'self'"})


async def _plain_page(request: Request) -> Response:
    return HTMLResponse("<p>", headers={"Cache-Control": "no-cache"})


async def _file(request: Request) -> Response:
    return FileResponse(Path(__file__))


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


NO_PAGE = "default-src 'none'; frame-ancestors 'none'; sandbox"


@pytest.mark.parametrize(
    ("path", "policy", "cached"),
    [
        ("/json", NO_PAGE, "no-store"),
        ("/refused", NO_PAGE, "no-store"),
        ("/nowhere", NO_PAGE, "no-store"),
        ("/page", "default-src 'self'", "no-store"),
        ("/plain-page", None, "no-cache"),
        ("/file", NO_PAGE, None),
    ],
)
async def test_each_answer_has_its_headers_once(path: str, policy: str | None, cached: str | None) -> None:
    handlers = {"json": _json, "refused": _refused, "page": _page, "plain-page": _plain_page, "file": _file}
    routes = [Route(f"/{name}", handler) for name, handler in handlers.items()]
    app = SafeHeaders(Starlette(routes=routes, exception_handlers={Problem: _problem}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        headers = (await client.get(path)).headers
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("referrer-policy") == ["no-referrer"]
    assert headers.get_list("content-security-policy") == ([policy] if policy else [])
    assert headers.get_list("cache-control") == ([cached] if cached else [])
