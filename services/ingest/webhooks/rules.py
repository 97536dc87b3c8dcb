"""Decides the content and signature of webhooks, their allowed targets, and their retries. Pure."""

import base64
import binascii
import hmac
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import idna
import orjson

from shared.domain.api_keys import WEBHOOK_PREFIX

_TYPES = {
    "DONE": "job.done",
    "FAILED": "job.failed",
    "CANCELLED": "job.cancelled",
}
_PAYLOAD_FIELDS = (
    "id",
    "store",
    "status",
    "sourceType",
    "sourceId",
    "createdAt",
    "finishedAt",
    "costUsd",
    "error",
)
_RETRY_PAUSES_S = (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 36_000.0)
"""The pauses after the first attempt, the second, and so on: about 28 hours in all."""
_GONE = 410
_GLOBAL_UNICAST_V6 = ip_network("2000::/3")
"""Other IPv6 addresses are local, reserved, or reach IPv4 through a gateway (64:ff9b::/96, …)."""
_SPECIAL_V6 = tuple(map(ip_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
"""Protocols including Teredo (reaches IPv4), examples, 6to4 (reaches IPv4), examples.

These are refused whatever `ipaddress` says about them.
"""
_SPECIAL_V4 = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24")))
"""Protocols, and 6to4 relays."""
NOT_PUBLIC = "does not lead to a public address"
"""The only reason shown to stores: more would reveal names of the internal network."""
_HOST_NAME = re.compile(
    r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?\.?"
)
"""The last label begins with a letter, so an address written as a number is not a name."""
_MAX_NAME_LENGTH = 253
_MAX_ADDRESSES = 3
"""Addresses of one host that an attempt tries."""
MAX_SENDS_PER_STORE = 4
_RESERVED_FOR_FAST = 5
"""Concurrent sends that slow stores never use."""


class ForbiddenTargetError(Exception):
    """A URL that must not be called. `internal_detail` is for the log only."""

    def __init__(self, reason: str, *, internal_detail: str | None = None) -> None:
        super().__init__(reason)
        self.internal_detail = internal_detail


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookTarget:
    host: str
    port: int
    scheme: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptOutcome:
    """The result of an attempt: the `status` of the response, or the `error` instead of one."""

    status: int | None
    error: str | None = None
    internal_detail: str | None = None
    """More about the error, for the log only."""
    final: bool = False
    """Whether every further attempt would end the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextState:
    state: str
    """DELIVERED, FAILED, or WAITING for `pause_s`."""
    pause_s: float = 0.0


def share_capacity(free: int, slow: Collection[str]) -> tuple[int, list[str]]:
    """Decide how many deliveries to lease when `free` sends may start.

    Also returns stores to count as sending already, once per blocked send. A slow store gets one
    send at a time, and the last five sends are reserved for fast stores.
    """
    if slow and free > _RESERVED_FOR_FAST:
        blocked = [store for store in slow for _ in range(MAX_SENDS_PER_STORE - 1)]
        return free - _RESERVED_FOR_FAST, blocked
    return free, [store for store in slow for _ in range(MAX_SENDS_PER_STORE)]


def delivery_id(job: UUID, attempt: int) -> UUID:
    """Return the id of the delivery for a job's end, the same for the same attempt of the job."""
    return uuid5(job, f"webhook:{attempt}")


def webhook_id(delivery: UUID) -> str:
    """Return the `webhook-id`: equal for all attempts, so that the receiver can drop repeats."""
    return f"msg_{delivery.hex}"


def payload(job: dict[str, Any], at: datetime) -> bytes:
    """Return the content of a webhook; the receiver fetches the post itself by GET."""
    content = {
        "type": _TYPES[job["status"]],
        "timestamp": at,
        "data": {name: job[name] for name in _PAYLOAD_FIELDS},
    }
    return orjson.dumps(content, option=orjson.OPT_UTC_Z)


def sign(secrets: Sequence[str], message: str, at: int, content: bytes) -> str:
    """Return the `webhook-signature`, with one signature for each valid secret."""
    signed = f"{message}.{at}.".encode() + content
    return " ".join(
        f"v1,{base64.b64encode(hmac.digest(_key(secret), signed, 'sha256')).decode()}"
        for secret in secrets
    )


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(WEBHOOK_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("a webhook secret is whsec_ and base64") from None


def parse_target(url: str, *, loopback: bool) -> WebhookTarget:
    """Return the target of a URL. Raises `ForbiddenTargetError`.

    Accepts https only; with `loopback` also http. Only `pinned_addresses` can check the addresses
    of a host name. Names in other scripts are encoded by IDNA 2008, as httpx and browsers do;
    Python's own codec (IDNA 2003) maps names with ß or ς to another domain.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
        host = host if host.isascii() else idna.encode(host).decode()
    except ValueError:  # idna raises UnicodeError, a ValueError
        raise ForbiddenTargetError("is no URL") from None
    if not host or parts.username is not None or parts.password is not None:
        raise ForbiddenTargetError("must name a host and no user")
    if parts.scheme != "https" and not (loopback and parts.scheme == "http"):
        raise ForbiddenTargetError("must be https")
    if port == 0:
        raise ForbiddenTargetError("must not have the port 0")
    default_port = 443 if parts.scheme == "https" else 80
    target = WebhookTarget(host=host, port=port or default_port, scheme=parts.scheme)
    if _is_address(host):
        pinned_addresses(target, [host], loopback=loopback)
    elif len(host) > _MAX_NAME_LENGTH or not _HOST_NAME.fullmatch(host):
        raise ForbiddenTargetError("must name a host as DNS does")
    return target


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def pinned_addresses(
    target: WebhookTarget, addresses: Sequence[str], *, loopback: bool
) -> Sequence[str]:
    """Return the addresses to connect to, in order, of the addresses of the target's host.

    Raises `ForbiddenTargetError` when any address is not public, or when there is none. With
    `loopback`, this machine's addresses are allowed, and http only to them.
    """
    for text in addresses:
        address = ip_address(text.partition("%")[0])
        on_this_machine = loopback and address.is_loopback
        if not on_this_machine and (target.scheme == "http" or not _is_public(address)):
            raise ForbiddenTargetError(NOT_PUBLIC, internal_detail=f"{target.host} is {address}")
    if not addresses:
        raise ForbiddenTargetError(NOT_PUBLIC, internal_detail=f"{target.host} has no address")
    return addresses[:_MAX_ADDRESSES]


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    special = _SPECIAL_V6 if isinstance(address, IPv6Address) else _SPECIAL_V4
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST_V6:
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in special)
    )


def decide_next_state(outcome: AttemptOutcome, *, attempts: int, chance: float) -> NextState:
    """Decide the state after `attempts` attempts, including this one.

    `chance` in [0, 1) spreads the pauses by up to a tenth.
    """
    if outcome.status is not None and 200 <= outcome.status < 300:
        return NextState(state="DELIVERED")
    if outcome.final or outcome.status == _GONE or attempts > len(_RETRY_PAUSES_S):
        return NextState(state="FAILED")
    pause_s = _RETRY_PAUSES_S[attempts - 1] * (1 + chance / 10)
    return NextState(state="WAITING", pause_s=pause_s)
