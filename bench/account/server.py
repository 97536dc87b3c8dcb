"""`python -m bench.account.server PORT RPM TPM FILE`: llmock as `llmock serve` runs it, with a note of every decision.

llmock's journal keeps the last 10,000 calls and their bodies, which some peers overrun within two minutes, and it
does not keep what a call was charged. So its limiter, whose judgement is left as it is, notes each decision in a file.
"""

import sys
import time
from pathlib import Path

import uvicorn
from llmock.chaos import ChaosSettings
from llmock.main import create_app
from llmock.ratelimit import Admission, LimitSettings, RateLimiter

_LATENCY_MS = 300


class NotingLimiter(RateLimiter):
    """llmock's limiter; every decision is a line: the monotonic clock, the tokens asked for, 1 if granted, else 0."""

    def __init__(self, settings: LimitSettings, file: Path) -> None:
        super().__init__(settings)
        self._notes = file.open("w", encoding="ascii", buffering=1)

    def admit(self, provider: str, key: str, tokens: int) -> Admission:
        admission = super().admit(provider, key, tokens)
        self._notes.write(f"{time.monotonic():.6f} {tokens} {admission.allowed:d}\n")
        return admission


def main(port: int, rpm: int, tpm: int, file: Path) -> None:
    limits = LimitSettings(rpm=rpm, tpm=tpm)
    app = create_app(ChaosSettings(latency_ms=_LATENCY_MS), limits=limits)
    app.state.llmock.limiter = NotingLimiter(limits, file)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
