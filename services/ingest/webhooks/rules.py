"""What webhooks decide: what is said and how it is signed, whom it may be said to, and when it is tried again. Pure."""

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

_TYPES = {
    "DONE": "job.done",
    "FAILED": "job.failed",
    "CANCELLED": "job.cancelled",
    "REJECTED": "job.rejected",
}
_PAUSES_S = (5.0, 60.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 36_000.0)
"""After the first attempt, the second, …: about 28 hours in all."""
_GONE = 410
_GIVEN_OUT_V6 = ip_network("2000::/3")
"""All else of IPv6 is local, reserved, or leads to IPv4 by a gateway (::ffff:0:0/96, 64:ff9b::/96, …)."""
_SPECIAL_V6 = tuple(map(ip_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
"""Protocols (of them Teredo, to IPv4), examples, 6to4 (to IPv4), examples: whatever else `ipaddress` knows of them."""
_SPECIAL_V4 = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24")))
"""Protocols, and relays of 6to4."""
NOT_PUBLIC = "does not lead to a public address"
"""All that a store is told, whatever there is: by more it could ask for what only our network knows."""
_NAME = re.compile(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?\.?")
"""The last label begins with a letter: other ways to write an address, as a number, say, are no names."""
_LONGEST_NAME = 253
_ADDRESSES = 3
"""Of one name, tried within one attempt."""
OF_ONE_STORE = 4
"""Sends at once."""
_NOT_FOR_SLOW = 5
"""Sends at once that only stores have whose servers are not known to hang."""
SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix of secrets, not one


class ForbiddenTargetError(Exception):
    """A URL that nothing is sent to. `known` is more about it, for our log alone."""

    def __init__(self, why: str, *, known: str | None = None) -> None:
        super().__init__(why)
        self.known = known


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    host: str
    port: int
    scheme: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an attempt. `status` is the answer's, `error` why there is none."""

    status: int | None
    error: str | None = None
    known: str | None = None
    """More about it, for our log alone."""
    final: bool = False
    """Another attempt would end like this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    state: str
    """DELIVERED, FAILED, or WAITING for `pause_s`."""
    pause_s: float = 0.0


def share(free: int, slow: Collection[str]) -> tuple[int, list[str]]:
    """How many deliveries to take when so many may begin, and which stores are to count as having others under way: a
    slow store has one at a time, and the last places are for the quick ones."""
    if slow and free > _NOT_FOR_SLOW:
        return free - _NOT_FOR_SLOW, [store for store in slow for _ in range(OF_ONE_STORE - 1)]
    return free, [store for store in slow for _ in range(OF_ONE_STORE)]


def delivery_id(job: UUID, attempt: int) -> UUID:
    return uuid5(job, f"webhook:{attempt}")


def message_id(delivery: UUID) -> str:
    """The `webhook-id`: the same at every attempt, so that the receiver can drop repeats."""
    return f"msg_{delivery.hex}"


def payload(job: dict[str, Any], at: datetime) -> bytes:
    """What is sent about a job as GET shows it: enough to act on; the post itself is to be fetched."""
    kept = (
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
    said = {
        "type": _TYPES[job["status"]],
        "timestamp": at,
        "data": {name: job[name] for name in kept},
    }
    return orjson.dumps(said, option=orjson.OPT_UTC_Z)


def sign(secrets: Sequence[str], message: str, at: int, content: bytes) -> str:
    """The `webhook-signature`, one for each secret in force."""
    signed = f"{message}.{at}.".encode() + content
    return " ".join(
        f"v1,{base64.b64encode(hmac.digest(_key(secret), signed, 'sha256')).decode()}"
        for secret in secrets
    )


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("a webhook secret is whsec_ and base64") from None


def target(url: str, *, loopback: bool) -> Target:
    """Where a URL leads, as far as it says so itself: whether its name has a public address only DNS can tell.

    https only; with `loopback`, http to this machine as well. Names in other scripts by IDNA 2008, as
    httpx and browsers have it: Python's own codec, of 2003, makes another domain of those with ß or ς.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
        host = host if host.isascii() else idna.encode(host).decode()
    except ValueError:  # UnicodeError, which idna's are, is one
        raise ForbiddenTargetError("is no URL") from None
    if not host or parts.username is not None or parts.password is not None:
        raise ForbiddenTargetError("must name a host and no user")
    if parts.scheme != "https" and not (loopback and parts.scheme == "http"):
        raise ForbiddenTargetError("must be https")
    if port == 0:
        raise ForbiddenTargetError("must not have the port 0")
    where = Target(
        host=host, port=port or (443 if parts.scheme == "https" else 80), scheme=parts.scheme
    )
    if _is_address(host):
        pinned(where, [host], loopback=loopback)
    elif len(host) > _LONGEST_NAME or not _NAME.fullmatch(host):
        raise ForbiddenTargetError("must name a host as DNS does")
    return where


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def pinned(where: Target, addresses: Sequence[str], *, loopback: bool) -> Sequence[str]:
    """The addresses to connect to, one after the other, of those that the host's name has. One that is not public, and
    none is used."""
    for address in addresses:
        found = ip_address(address.partition("%")[0])
        on_this_machine = loopback and found.is_loopback
        if not on_this_machine and (where.scheme == "http" or not _is_public(found)):
            raise ForbiddenTargetError(NOT_PUBLIC, known=f"{where.host} is {found}")
    if not addresses:
        raise ForbiddenTargetError(NOT_PUBLIC, known=f"{where.host} has no address")
    return addresses[:_ADDRESSES]


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    special = _SPECIAL_V6 if isinstance(address, IPv6Address) else _SPECIAL_V4
    if isinstance(address, IPv6Address) and address not in _GIVEN_OUT_V6:
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in special)
    )


def judge(outcome: Outcome, *, attempts: int, chance: float) -> Verdict:
    """What to do after so many attempts, this one included. `chance` in [0, 1) spreads the pauses by a tenth."""
    if outcome.status is not None and 200 <= outcome.status < 300:
        return Verdict(state="DELIVERED")
    if outcome.final or outcome.status == _GONE or attempts > len(_PAUSES_S):
        return Verdict(state="FAILED")
    return Verdict(state="WAITING", pause_s=_PAUSES_S[attempts - 1] * (1 + chance / 10))
