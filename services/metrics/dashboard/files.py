"""Serves the dashboard's files: ours from `static`, the chart library from its Python package."""

from importlib.util import find_spec
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_STATIC = Path(__file__).parent / "static"
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
_PAGE_HEADERS = _HEADERS | {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}


def routes() -> list[Route | Mount]:
    """Return the routes of `/`, `/static` and `/vendor`.

    The page reads its data from the JSON endpoints.
    """
    return [
        Route("/", _page),
        Mount("/static", _StaticFiles(directory=_STATIC)),
        Mount("/vendor/uplot", _StaticFiles(directory=_uplot_folder())),
    ]


class _StaticFiles(StaticFiles):
    """Revalidated at each load (a 304 is cheap), so that no page mixes modules of two versions."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


async def _page(request: Request) -> Response:
    return FileResponse(_STATIC / "index.html", headers=_PAGE_HEADERS)


def _uplot_folder() -> Path:
    """Return the folder of uPlot's script and style sheet, without importing the package."""
    package = find_spec("youplot")
    assert package is not None, "requirements/services.txt installs it"
    assert package.origin is not None, "a regular package has a file"
    return Path(package.origin).parent / "vendor"
