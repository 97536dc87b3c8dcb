"""Authenticates requests by the API key in `Authorization`, or by an events ticket."""

import time
from uuid import UUID

from starlette.requests import Request

from services.ingest.auth import rules
from services.ingest.auth.key_ring import Caller, KeyRing
from services.ingest.auth.rules import TicketPolicy
from shared.domain.api_keys import hash_key
from shared.http.responses import Problem


class Authenticator:
    def __init__(self, keys: KeyRing, ticket_policy: TicketPolicy) -> None:
        self._keys = keys
        self._ticket_policy = ticket_policy

    async def authenticate(self, request: Request) -> Caller:
        """Return the store or operator that owns the request's key; 401 without a valid key."""
        key = _bearer_key(request)
        caller = await self._keys.find_caller(key) if key is not None else None
        if caller is None:
            raise Problem(
                401,
                "Unauthorized",
                detail="send a valid API key: Authorization: Bearer sk_live_…",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return caller

    async def authenticate_store(self, request: Request) -> str:
        """Return the store; 403 for an operator, because operators request no posts."""
        caller = await self.authenticate(request)
        if caller.store is None:
            detail = "an operator's key cannot request posts; use a store's key"
            raise Problem(403, "Forbidden", detail=detail)
        return caller.store

    async def authenticate_operator(self, request: Request) -> Caller:
        """Return the operator; 403 for a store."""
        caller = await self.authenticate(request)
        if caller.store is not None:
            raise Problem(403, "Forbidden", detail="this requires an operator's key")
        return caller

    async def authenticate_ticket(self, text: str, job: UUID) -> Caller:
        """Return the caller that the ticket was issued to; 401 unless it is valid for this job."""
        ticket = rules.parse_ticket(text)
        digest = await self._keys.find_hash(ticket.key_prefix) if ticket is not None else None
        now, policy = time.time(), self._ticket_policy
        if (
            ticket is None
            or digest is None
            or not ticket.is_valid(digest, policy, job=job, now=now)
        ):
            detail = "the ticket is expired or not valid for this job"
            raise Problem(401, "Unauthorized", detail=detail)
        return self._keys.caller_with_hash(digest)

    async def issue_ticket(self, request: Request, job: UUID) -> tuple[str, float]:
        """Return a ticket in the caller's name, and its expiry in seconds since the epoch."""
        await self.authenticate(request)
        key_hash = hash_key(_bearer_key(request) or "")
        return rules.issue_ticket(job, key_hash, self._ticket_policy, now=time.time())

    def is_valid(self, caller: Caller) -> bool:
        """Return whether the key of an earlier caller is still valid."""
        return self._keys.is_valid(caller)


def _bearer_key(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None
