"""Answers that report a failure, and the faults that decide a prediction's life."""

import math
from typing import Any

from starlette.responses import Response

from sandbox.providers.faults import ScriptedFault
from sandbox.providers.throttle import Denial, Throttle
from sandbox.providers.wire import broken_response, json_response

_LIFE_FAULTS = {"failed", "aborted", "stuck", "prediction"}
FAULTS = _LIFE_FAULTS | {
    "401",
    "402",
    "403",
    "404",
    "429",
    "500",
    "502",
    "503",
    "504",
    "cut",
    "reset",
    "timeout",
    "slow_body",
    "response",
}
_TITLES = {
    "401": "Unauthenticated",
    "402": "Insufficient credit",
    "403": "Permission denied",
    "404": "Model not found",
    "500": "Internal Error",
    "502": "Bad Gateway",
    "503": "Unavailable",
    "504": "Gateway Timeout",
}


def failed_call(fault: ScriptedFault) -> Response | None:
    """Return the answer of a fault, or None for a kind that lets the call be answered."""
    broken = broken_response(fault)
    if broken is not None:
        return broken
    if fault.kind == "429":
        return _too_many(fault.retry_after or 1, header=fault.retry_after is not None)
    title = _TITLES.get(fault.kind)
    if title is None:
        return None
    body = {"title": title, "detail": f"{title} (scripted)", "status": int(fault.kind)}
    wait_s = fault.retry_after or (1 if fault.kind == "503" else None)
    return json_response(body, int(fault.kind), {"retry-after": f"{wait_s:g}"} if wait_s else {})


def is_charged(fault: ScriptedFault) -> bool:
    """Return whether a scripted creation is billed: it returns an id, or names tokens to bill."""
    has_id = isinstance(fault.body, dict) and bool(fault.body.get("id"))
    is_created = has_id and fault.status in (None, 200, 201, 202)
    return fault.kind == "response" and (is_created or fault.tokens is not None)


def life_script(fault: ScriptedFault | None) -> ScriptedFault | None:
    """Return the script of a prediction's life that a fault stands for."""
    if fault is None or fault.kind not in _LIFE_FAULTS or fault.kind == "stuck":
        return None
    if fault.kind == "prediction":
        return fault
    return fault.model_copy(update={"status": fault.kind})


def overridden_fields(fault: ScriptedFault) -> dict[str, Any]:
    """Return what a fault of kind `prediction` on a poll shows instead, for that poll only."""
    given = fault.model_fields_set & {"status", "error", "output"}
    return {name: getattr(fault, name) for name in given}


def throttled(denial: Denial, throttle: Throttle) -> Response:
    """Return the 429 of a limit that was met, in the throttle's style."""
    reduced, burst, style = "", throttle.burst, throttle.style
    if burst is not None:
        reduced = (
            f" Your rate limit for creating predictions is reduced to {denial.limit:.0f} requests"
            f" per minute with a burst of {burst:.0f} requests while you have less than $5.0 in"
            " credit."
        )
    header = style in ("full", "retry-after")
    return _too_many(denial.wait_s, header=header, in_body=style != "plain", reduced=reduced)


def _too_many(wait_s: float, *, header: bool, in_body: bool = True, reduced: str = "") -> Response:
    """Build a 429. The time is in the body, in the header, in both, or in neither."""
    wait = max(1, math.ceil(wait_s))
    detail, body = f"Request was throttled.{reduced}", {}
    if in_body:
        detail, body = f"{detail} Your rate limit resets in ~{wait}s.", {"retry_after": wait}
    return json_response(
        {"detail": detail, "status": 429} | body, 429, {"retry-after": str(wait)} if header else {}
    )
