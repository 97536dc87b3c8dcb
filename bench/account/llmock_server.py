"""Runs llmock like `llmock serve`, and records every decision in a file.

`python -m bench.account.llmock_server PORT RPM TPM FILE`

llmock's journal keeps only the last 10,000 calls, which some peers exceed within two minutes, and
not the tokens that a call was charged. So its limiter, unchanged otherwise, writes each decision to
a file.
"""

import sys
import time
from pathlib import Path

import uvicorn
from llmock.chaos import ChaosSettings
from llmock.main import create_app
from llmock.ratelimit import Admission, LimitSettings, RateLimiter

_LATENCY_MS = 300


class RecordingLimiter(RateLimiter):
    """llmock's limiter.

    Writes a line for each decision: monotonic clock, tokens, 1 if granted else 0.
    """

    def __init__(self, settings: LimitSettings, file: Path) -> None:
        super().__init__(settings)
        self._records = file.open("w", encoding="ascii", buffering=1)

    def admit(self, provider: str, key: str, tokens: int) -> Admission:
        admission = super().admit(provider, key, tokens)
        self._records.write(f"{time.monotonic():.6f} {tokens} {admission.allowed:d}\n")
        return admission


def main(port: int, rpm: int, tpm: int, file: Path) -> None:
    limits = LimitSettings(rpm=rpm, tpm=tpm)
    app = create_app(ChaosSettings(latency_ms=_LATENCY_MS), limits=limits)
    app.state.llmock.limiter = RecordingLimiter(limits, file)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
