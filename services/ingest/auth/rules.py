"""Tickets for browsers, whose EventSource sends no Authorization: for one job, for a minute, worthless afterwards.

A ticket is signed with the hash of the API key that asked for it, which every ingest process knows: no secret has to be
shared, and a revoked key takes its tickets with it. But who reads the stored hashes can sign as well, unless a secret
that is not in PostgreSQL is part of it. Pure.
"""

import base64
import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from uuid import UUID

_PREFIX = 8
_FORMAT = f">16sd{_PREFIX}s"
_SIGNATURE = 16
_SKEW_S = 60.0
"""Clocks of other machines may be so much ahead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What all ingest processes agree on."""

    valid_s: float
    """How long a ticket may be good for, from its making."""
    secret: bytes = field(default=b"", repr=False)
    """Part of every signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    job: UUID
    expires_at: float
    """Seconds since the epoch."""
    key_prefix: bytes
    """The first bytes of the hash of the key that signed it."""
    signed: bytes
    signature: bytes

    def is_valid(self, key_hash: bytes, rules: Rules, *, job: UUID, now: float) -> bool:
        """An end later than any that is given out was made by somebody else."""
        return (
            hmac.compare_digest(self.signature, _sign(self.signed, key_hash, rules.secret))
            and self.job == job
            and now < self.expires_at <= now + rules.valid_s + _SKEW_S
        )


def issue(job: UUID, key_hash: bytes, rules: Rules, *, now: float) -> tuple[str, float]:
    """A ticket, and when it ends."""
    expires_at = now + rules.valid_s
    content = struct.pack(_FORMAT, job.bytes, expires_at, key_hash[:_PREFIX])
    signature = _sign(content, key_hash, rules.secret)
    return base64.urlsafe_b64encode(content + signature).decode().rstrip("="), expires_at


def read(text: str) -> Ticket | None:
    """None when it is no ticket; whether it is a good one, its key will tell."""
    try:
        content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        signed, signature = content[:-_SIGNATURE], content[-_SIGNATURE:]
        job, expires_at, prefix = struct.unpack(_FORMAT, signed)
    except (ValueError, struct.error):
        return None
    return Ticket(
        job=UUID(bytes=job),
        expires_at=expires_at,
        key_prefix=prefix,
        signed=signed,
        signature=signature,
    )


def _sign(content: bytes, key_hash: bytes, secret: bytes) -> bytes:
    key = hmac.digest(secret, key_hash, hashlib.sha256) if secret else key_hash
    return hmac.digest(key, b"events-ticket:" + content, hashlib.sha256)[:_SIGNATURE]
