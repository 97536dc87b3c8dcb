"""Who is calling, as a handler asks it: by the key in `Authorization`."""

from starlette.requests import Request

from services.ingest.keys import Caller, KeyRing
from shared.http import Problem


class Callers:
    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    async def anyone(self, request: Request) -> Caller:
        """A store, or an operator; 401 for everybody else."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        caller = await self._keys.caller_of(key.strip()) if scheme.lower() == "bearer" else None
        if caller is None:
            detail = "send a valid API key: Authorization: Bearer sk_live_…"
            raise Problem(401, "Unauthorized", detail=detail, headers={"WWW-Authenticate": "Bearer"})
        return caller

    async def store(self, request: Request) -> str:
        """A store; 403 for an operator, who asks for nothing of their own."""
        caller = await self.anyone(request)
        if caller.store is None:
            raise Problem(403, "Forbidden", detail="an operator's key may look at, cancel and retry jobs, no more")
        return caller.store
