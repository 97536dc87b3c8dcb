"""Lists by keyset: newest first, a page at a time, each page saying where the next begins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from starlette.datastructures import QueryParams
from starlette.responses import Response

from services.ingest.jobs.repository import Row
from services.ingest.submit import rules
from shared.http.responses import JsonResponse


@dataclass(frozen=True, slots=True)
class Page:
    """What of a list is asked for."""

    query: QueryParams
    limit: int
    after: tuple[datetime, UUID] | None

    @property
    def rows(self) -> int:
        """To read: one more than are shown tells whether there is a next page."""
        return self.limit + 1

    def answer(
        self, path: str, rows: Sequence[Row], shown: Callable[[Row], dict[str, Any]]
    ) -> Response:
        """The items, and the next page as a cursor and as a `Link`."""
        page = rows[: self.limit]
        following = (
            rules.cursor_of(page[-1]["created_at"], page[-1]["id"])
            if len(rows) > self.limit
            else None
        )
        headers = {}
        if following is not None:
            parameters = dict(self.query) | {"limit": str(self.limit), "cursor": following}
            headers["Link"] = f'<{path}?{urlencode(parameters)}>; rel="next"'
        return JsonResponse(
            {"items": [shown(row) for row in page], "next": following}, headers=headers
        )


def page_of(query: QueryParams, known: set[str]) -> Page:
    """The page that a query asks for; `known` are the list's own parameters."""
    rules.judge_parameters(
        [name for name, _ in query.multi_items()], {"limit", "cursor", "store", *known}
    )
    limit = rules.read_limit(query["limit"]) if "limit" in query else 20
    return Page(query, limit, rules.read_cursor(query["cursor"]) if "cursor" in query else None)
