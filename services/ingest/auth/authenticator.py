"""Who is calling, as a handler asks it: by the key in `Authorization`, or by a ticket."""

import time
from uuid import UUID

from starlette.requests import Request

from services.ingest.auth import rules as tickets
from services.ingest.auth.key_ring import Caller, KeyRing
from shared.domain.api_keys import hash_key
from shared.http.responses import Problem


class Callers:
    def __init__(self, keys: KeyRing, ticket_rules: tickets.Rules) -> None:
        self._keys = keys
        self._ticket_rules = ticket_rules

    async def anyone(self, request: Request) -> Caller:
        """A store, or an operator; 401 for everybody else."""
        key = _bearer(request)
        caller = await self._keys.caller_of(key) if key is not None else None
        if caller is None:
            detail = "send a valid API key: Authorization: Bearer sk_live_…"
            raise Problem(
                401, "Unauthorized", detail=detail, headers={"WWW-Authenticate": "Bearer"}
            )
        return caller

    def is_valid(self, caller: Caller) -> bool:
        """Whether whoever has called before would still be let in."""
        return self._keys.is_valid(caller)

    async def store(self, request: Request) -> str:
        """A store; 403 for an operator, who has no posts written."""
        caller = await self.anyone(request)
        if caller.store is None:
            raise Problem(
                403,
                "Forbidden",
                detail="an operator's key asks for no posts: this takes a store's key",
            )
        return caller.store

    async def operator(self, request: Request) -> Caller:
        """An operator; 403 for a store."""
        caller = await self.anyone(request)
        if caller.store is not None:
            raise Problem(403, "Forbidden", detail="this takes an operator's key")
        return caller

    async def ticket(self, request: Request, job: UUID) -> tuple[str, float]:
        """A ticket in the name of who is calling, and when it ends."""
        await self.anyone(request)
        return tickets.issue(
            job, hash_key(_bearer(request) or ""), self._ticket_rules, now=time.time()
        )

    async def holder(self, text: str, job: UUID) -> Caller:
        """Whom a ticket for this job was given to; 401 when it is none, or no longer."""
        ticket = tickets.read(text)
        digest = await self._keys.hash_of(ticket.key_prefix) if ticket is not None else None
        now, rules = time.time(), self._ticket_rules
        if ticket is None or digest is None or not ticket.is_valid(digest, rules, job=job, now=now):
            raise Problem(
                401, "Unauthorized", detail="this ticket is not valid for this job, or no longer"
            )
        return self._keys.caller_with(digest)


def _bearer(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None
