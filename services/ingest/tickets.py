"""Tickets for browsers, whose EventSource sends no Authorization: for one job, for a minute, worthless afterwards.

A ticket is signed with the hash of the API key that asked for it, which every ingest process knows: no secret has to be
shared, and a revoked key takes its tickets with it. Pure.
"""

import base64
import hashlib
import hmac
import struct
from dataclasses import dataclass
from uuid import UUID

_PREFIX = 8
_FORMAT = f">16sd{_PREFIX}s"
_SIGNATURE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    job: UUID
    expires_at: float
    """Seconds since the epoch."""
    key_prefix: bytes
    """The first bytes of the hash of the key that signed it."""
    signed: bytes
    signature: bytes

    def is_valid(self, key_hash: bytes, *, job: UUID, now: float) -> bool:
        return (
            hmac.compare_digest(self.signature, _sign(self.signed, key_hash))
            and self.job == job
            and now < self.expires_at
        )


def issue(job: UUID, key_hash: bytes, *, expires_at: float) -> str:
    content = struct.pack(_FORMAT, job.bytes, expires_at, key_hash[:_PREFIX])
    return base64.urlsafe_b64encode(content + _sign(content, key_hash)).decode().rstrip("=")


def read(text: str) -> Ticket | None:
    """None when it is no ticket; whether it is a good one, its key will tell."""
    try:
        content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        signed, signature = content[:-_SIGNATURE], content[-_SIGNATURE:]
        job, expires_at, prefix = struct.unpack(_FORMAT, signed)
    except (ValueError, struct.error):
        return None
    return Ticket(job=UUID(bytes=job), expires_at=expires_at, key_prefix=prefix, signed=signed, signature=signature)


def _sign(content: bytes, key_hash: bytes) -> bytes:
    return hmac.digest(key_hash, b"events-ticket:" + content, hashlib.sha256)[:_SIGNATURE]
