"""Answers GET of one job and of a store's jobs."""

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from services.ingest.auth.authenticator import Authenticator
from services.ingest.http.pagination import parse_page_request
from services.ingest.http.rules import select_store
from services.ingest.jobs import rules, view
from services.ingest.jobs.reader import JobReader, read_or_refuse
from services.ingest.jobs.repository import JobRepository
from shared.http.responses import JsonResponse


class JobHandlers:
    def __init__(
        self, *, authenticator: Authenticator, jobs: JobRepository, reader: JobReader
    ) -> None:
        self._authenticator = authenticator
        self._jobs = jobs
        self._reader = reader

    async def get_job(self, request: Request) -> Response:
        caller = await self._authenticator.authenticate(request)
        return JsonResponse(await self._reader.get_detail(request.path_params["job"], caller))

    async def list_jobs(self, request: Request) -> Response:
        """Answer a page of a store's jobs, newest first."""
        caller = await self._authenticator.authenticate(request)
        query = request.query_params
        page = parse_page_request(query, {"status"})
        store = select_store(caller.store, query.get("store"))
        status = rules.parse_status(query["status"]) if "status" in query else None
        rows = await read_or_refuse(
            self._jobs.list_jobs(store, status=status, after=page.after, limit=page.rows)
        )
        now = datetime.now(UTC)
        return page.answer(
            "/api/blog-generation", rows, lambda row: view.job_summary(dict(row), now)
        )
