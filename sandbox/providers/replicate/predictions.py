"""A prediction: its life in time, or as a fault scripts it, and its JSON."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sandbox.providers.faults import FileKind, ScriptedFault
from sandbox.providers.replicate.models import Model, version_of

_STARTING_S = 0.1
EXPIRES_S = 3600.0
"""Replicate deletes outputs an hour after the prediction ended."""
_RUNNING = ("starting", "processing", "queued")
_ENDED = ("succeeded", "failed", "canceled", "aborted")
_FILES: dict[str, FileKind] = {"jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}
_NAMES = {"jpeg": "jpg", "webp": "webp", "svg": "svg", "html": "html", "octet-stream": "bin"}


@dataclass(slots=True, kw_only=True)
class Prediction:
    """A prediction. Times are of the monotonic clock. `script` replaces its natural life."""

    id: str
    job: str
    model: Model
    input: dict[str, Any]
    created_at: float
    ready_at: float
    script: ScriptedFault | None = None
    polls: int = 0
    canceled_at: float | None = None

    def status(self, now: float) -> str:
        if self.canceled_at is not None:
            return "canceled"
        scripted = self._scripted_status(now)
        if scripted is not None:
            return scripted
        if now >= self.ready_at:
            return "succeeded"
        return "starting" if now < self.created_at + _STARTING_S else "processing"

    def has_ended(self, now: float) -> bool:
        return self.status(now) in _ENDED

    def is_expired(self, now: float) -> bool:
        return now > self.ready_at + EXPIRES_S

    def remaining_s(self, now: float) -> float:
        """Return the seconds until the prediction ends, infinite if it never does."""
        if self.has_ended(now):
            return 0.0
        runs_on = self._scripted_status(max(now, self.ready_at)) not in (None, *_ENDED)
        return math.inf if runs_on else max(0.0, self.ready_at - now)

    def cancel(self, now: float) -> bool:
        """Cancel the prediction unless it has ended. Returns whether this changed anything."""
        if self.has_ended(now):
            return False
        self.canceled_at = now
        return True

    def file_kind(self) -> FileKind:
        if self.script is not None and self.script.file is not None:
            return self.script.file
        return _FILES.get(self.model.choose_format(self.input), "png")

    def as_json(self, base_url: str, now: float) -> dict[str, Any]:
        status, url = self.status(now), f"{base_url}/v1/predictions/{self.id}"
        is_running = status in _RUNNING
        ended_at = self.ready_at if self.canceled_at is None else self.canceled_at
        metrics = {"predict_time": round(max(0.0, ended_at - self.created_at), 3)}
        return {
            "id": self.id,
            "model": self.model.name,
            "version": version_of(self.model.name),
            "input": self.input,
            "logs": "stand-in: no model ran",
            "output": None if is_running or self.canceled_at else self._output(base_url, status),
            "data_removed": False,
            "error": self._error(status),
            "source": "api",
            "status": status,
            "created_at": _timestamp(now - self.created_at),
            "started_at": None if status in ("starting", "queued") else _timestamp(0),
            "completed_at": None if is_running else _timestamp(max(0.0, now - ended_at)),
            "metrics": {} if is_running or not math.isfinite(ended_at) else metrics,
            "urls": {"get": url, "cancel": f"{url}/cancel"},
        }

    def _scripted_status(self, now: float) -> str | None:
        """Return the status that a fault names, or None for the natural one.

        An ending begins when the prediction is ready, every other word at once.
        """
        script = self.script
        if script is None or script.status is None:
            return None
        if script.polls is not None and self.polls > script.polls:
            return None
        status = str(script.status)
        return None if status in _ENDED and now < self.ready_at else status

    def _error(self, status: str) -> Any:
        script = self.script
        if (
            script is not None
            and script.error is not None
            and status not in ("succeeded", *_RUNNING)
        ):
            return script.error
        return "failed, as scripted" if status == "failed" else None

    def _output(self, base_url: str, status: str) -> Any:
        urls = [self._file_url(base_url, number) for number in range(self._outputs())]
        if self.script is not None and "output" in self.script.model_fields_set:
            return _fill(self.script.output, urls[0])
        if status != "succeeded":
            return None
        return urls if self.model.is_list else urls[0]

    def _outputs(self) -> int:
        return int(self.input.get("num_outputs") or 1) if self.model.is_list else 1

    def _file_url(self, base_url: str, number: int) -> str:
        extension = _NAMES.get(self.file_kind(), "png")
        return f"{base_url}/output/{self.id}/out-{number}.{extension}"


def _fill(output: Any, url: str) -> Any:
    """Replace `{url}` in all texts of a scripted output."""
    if isinstance(output, str):
        return output.replace("{url}", url)
    if isinstance(output, list):
        return [_fill(part, url) for part in output]
    if isinstance(output, dict):
        return {key: _fill(part, url) for key, part in output.items()}
    return output


def _timestamp(seconds_ago: float) -> str:
    at = datetime.now(UTC).timestamp() - (seconds_ago if math.isfinite(seconds_ago) else 0)
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
