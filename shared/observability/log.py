"""Structured logging: one JSON object a line on stdout, with the bound context.

Events are logged once, where they happen. Secrets are never logged: `create_redactor` is the last
processor before the encoder.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from types import NoneType
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.observability.tracing import add_trace_id

LEVELS = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO, 3: logging.DEBUG, 4: logging.DEBUG}

_LIBRARIES = (
    "aiokafka",
    "faust",
    "mode",
    "httpx",
    "httpx2",
    "httpcore",
    "openai",
    "uvicorn",
    "asyncio",
    "opentelemetry",
    "urllib3",
)
_SECRET_NAME = re.compile(
    r"(?:api|access|private|secret)[_-]?key|token$|secret|passw(?:or)?d|authorization|cookie"
    r"|credential|ticket|(?:^|[_-])dsn$|database_url",
    re.IGNORECASE,
)
_SECRET_TEXTS = (
    r"(?:sk_live_|sk_operator_|whsec_|\bsk-|\br8_)[\w\-+/=]{6,}",
    r"(?<=://)[^/?#@\s\"']+(?=@)",  # user and password in an address
    # A name and its value, as in addresses, headers, JSON and the notation of Python objects.
    r"(?P<named>(?i:(?:api|access|private|secret)[_-]?key|token|secret|passw(?:or)?d|ticket"
    r"|credentials?|authorization)"
    r"\\*[\"']?\s*[=:]\s*)"
    r"(?:b?\"(?:[^\"\\]|\\.)*\"|b?'(?:[^'\\]|\\.)*'|\\+\"[^\"]*\""
    r"|(?i:(?:bearer|basic)\s+)?[^\s&\"',;]{6,})",
    r"(?i:\bbearer\s+[\w\-+/=.~]{6,}|\bbasic\s+[\w+/=]{8,})",
)
_SECRET_TEXT = re.compile("|".join(_SECRET_TEXTS))
_HINTS = (
    "sk_",
    "sk-",
    "r8_",
    "whsec_",
    "bearer",
    "basic",
    "@",
    "key",
    "token",
    "secret",
    "passw",
    "ticket",
    "credential",
    "authorization",
)
"""A text in lower case without any of these hints has no such secret. Nearly all texts have
none, and the check is fast.
"""
_MIN_SECRET_LENGTH = 6
"""Shorter secrets are hidden by their form only, not wherever their letters occur."""
_REDACTED = "[redacted]"
_PLAIN = (int, float, NoneType, datetime, UUID)


def _create_text_redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    forms = {
        form
        for secret in secrets
        for form in (secret, quote(secret, safe=""), unquote(secret), repr(secret)[1:-1])
    }
    known = sorted(
        (form for form in forms if len(form) >= _MIN_SECRET_LENGTH), key=len, reverse=True
    )

    def hide(value: str) -> str:
        for secret in known:
            if secret in value:
                value = value.replace(secret, _REDACTED)
        lower = value.lower()
        for hint in _HINTS:
            if hint in lower:
                return _SECRET_TEXT.sub(rf"\g<named>{_REDACTED}", value)
        return value

    return hide


def create_redactor(secrets: Iterable[str] = ()) -> Processor:
    """Create a processor that hides secrets.

    It hides values under secret-looking names, and in any text the given secrets and whatever looks
    like a secret: as it is, URL-quoted, or in the notation of a Python object.
    """
    redact_text = _create_text_redactor(secrets)

    def redact_value(value: Any) -> Any:
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, Mapping):
            return {
                redact_text(str(name)): _REDACTED if _is_secret(str(name)) else redact_value(item)
                for name, item in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [redact_value(item) for item in value]
        return redact_text(str(value))

    def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {
            name: _REDACTED if _is_secret(name) else redact_value(value)
            for name, value in event.items()
        }

    return redact


@lru_cache(maxsize=1_000)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


class RepeatFilter(logging.Filter):
    """Drops repeats of a library's message within `within_s` seconds.

    While Kafka is unavailable, its client logs the same message hundreds of times.
    """

    def __init__(self, library: str, *, within_s: float = 30.0) -> None:
        super().__init__()
        self._library = library
        self._within_s = within_s
        self._last_logged_at: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(self._library):
            return True
        message = (record.name, str(record.msg))
        if record.created - self._last_logged_at.get(message, float("-inf")) < self._within_s:
            return False
        self._last_logged_at[message] = record.created
        return True


def _to_json(event: EventDict, **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def configure_logging(service: str, level: int, *, secrets: Iterable[str] = ()) -> None:
    """Set up logging for this process and its libraries. `level` is LOG_LEVEL: 2 is INFO.

    `secrets` (`Settings.secrets`) are texts that must never be logged, whatever their form.
    """
    steps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_trace_id,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*steps, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=steps,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                create_redactor(secrets),
                structlog.processors.JSONRenderer(serializer=_to_json),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(LEVELS[level])
    # Libraries' INFO is this system's DEBUG.
    library_level = logging.DEBUG if level >= 3 else logging.WARNING
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(library_level)
    for name in ("aiokafka", "opentelemetry"):
        handler.addFilter(RepeatFilter(name))
    structlog.contextvars.bind_contextvars(service=service)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    return structlog.stdlib.get_logger(name)
