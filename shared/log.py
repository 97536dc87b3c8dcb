"""Structured logging: one JSON object a line on stdout, with what is bound to the context (service, job, store).

Everything an operator must know is logged once, where it happens. Secrets never are: `redact` is the last
processor before the encoder.
"""

import logging
import re
import sys
from collections.abc import Sequence
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.tracing import add_trace_id

LEVELS = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO, 3: logging.DEBUG, 4: logging.DEBUG}

_LIBRARIES = (
    "aiokafka", "faust", "mode", "httpx", "httpx2", "httpcore", "openai", "uvicorn", "asyncio", "opentelemetry",
    "urllib3",
)  # fmt: skip
_SECRET_NAME = re.compile(r"(api[_-]?key|token$|secret|password|authorization|database_url)", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"(sk_live_|sk-|r8_|Bearer\s+)[A-Za-z0-9_\-]{6,}|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)")
_HIDDEN = "[redacted]"


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hide values under secret-looking names, and secret-looking text anywhere."""
    return {name: _HIDDEN if _SECRET_NAME.search(name) else _redact_value(value) for name, value in event.items()}


def hide(texts: Sequence[str]) -> Processor:
    """A processor that hides these texts wherever they occur: secrets that nothing about them gives away."""
    known = re.compile("|".join(map(re.escape, filter(None, texts))) or "(?!)")

    def hidden(value: Any) -> Any:
        if isinstance(value, str):
            return known.sub(_HIDDEN, value)
        if isinstance(value, dict):
            return {name: hidden(item) for name, item in value.items()}
        return [hidden(item) for item in value] if isinstance(value, list | tuple) else value

    return lambda _logger, _method, event: {name: hidden(value) for name, value in event.items()}


def _redact_value(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET_VALUE.sub(_HIDDEN, value)
    if isinstance(value, dict):
        return redact(None, "", value)
    if isinstance(value, list | tuple):
        return [_redact_value(item) for item in value]
    return value


class SaidBefore(logging.Filter):
    """Lets a library say the same thing once in `within_s` seconds: while Kafka is away, its client says hundreds."""

    def __init__(self, library: str, *, within_s: float = 30.0) -> None:
        super().__init__()
        self._library = library
        self._within_s = within_s
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(self._library):
            return True
        what = (record.name, str(record.msg))
        if record.created - self._said.get(what, float("-inf")) < self._within_s:
            return False
        self._said[what] = record.created
        return True


def _to_json(event: EventDict, **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def configure(service: str, level: int, *, secrets: Sequence[str] = ()) -> None:
    """Set up logging for this process, libraries' loggers included. `level` is the contract's number: 2 is INFO.

    `secrets` are texts never to be said, such as an address that is a key in itself.
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
                redact,
                hide(secrets),
                structlog.processors.JSONRenderer(serializer=_to_json),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(LEVELS[level])
    # Libraries speak at a level of their own: their INFO is our DEBUG.
    library_level = logging.DEBUG if level >= 3 else logging.WARNING
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(library_level)
    for name in ("aiokafka", "opentelemetry"):
        handler.addFilter(SaidBefore(name))
    structlog.contextvars.bind_contextvars(service=service)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    return structlog.stdlib.get_logger(name)
