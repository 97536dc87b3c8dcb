"""Logging: one JSON object a line, numeric levels, and redaction of planted secrets."""

import json
import logging
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import structlog

from shared.observability import log
from shared.observability.log import _LIBRARIES


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    for library in _LIBRARIES:  # at DEBUG they would slow every later test down
        logging.getLogger(library).setLevel(logging.NOTSET)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_line_has_service_job_and_store(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure_logging("generator", 2)
    log.get_logger("test").info("claimed", job="j1", store="s1")
    (line,) = lines(capsys)
    assert line["event"] == "claimed"
    assert (line["service"], line["job"], line["store"]) == ("generator", "j1", "s1")
    assert line["level"] == "info"


@pytest.mark.parametrize(("level", "count"), [(0, 1), (1, 2), (2, 3), (3, 4), (4, 4)])
def test_numeric_level_selects_the_lines(
    capsys: pytest.CaptureFixture[str], level: int, count: int
) -> None:
    log.configure_logging("ingest", level)
    logger = log.get_logger(f"level-{level}")
    logger.error("e")
    logger.warning("w")
    logger.info("i")
    logger.debug("d")
    assert len(lines(capsys)) == count


def test_library_messages_are_json_lines_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure_logging("metrics", 2)
    logging.getLogger("aiokafka").warning("coordinator %s died", 1)
    (line,) = lines(capsys)
    assert line["event"] == "coordinator 1 died"


@pytest.mark.parametrize(
    "planted",
    [
        {"openai_api_key": "planted-secret"},
        {"Authorization": "Bearer planted-secret"},
        {"detail": "key sk_live_planted-secret refused"},
        {"detail": "using sk-planted-secret-0123"},
        {"detail": "r8_planted-secret"},
        {"detail": "postgresql://user:planted-secret@db:5432/blog"},
        {"nested": {"password": "planted-secret"}},
        {"several": ["ok", "Bearer planted-secret"]},
        {"detail": "sk_operator_planted-secret and whsec_planted-secret"},
        {"detail": "GET https://host/x?api_key=planted-secret&y=1"},
        {"detail": "https://planted-secret@host/x"},
        {"detail": "Basic cGxhbnRlZC1zZWNyZXQ= bearer planted-secret"},
        {"stores": {"sk_live_planted-secret": "a name"}},
        {"error": ValueError("sk_live_planted-secret")},
        {"raw": b"sk_live_planted-secret"},
        {"several": {("x", "sk_live_planted-secret")}},
        {"exc_info": ValueError("no store for sk_live_planted-secret")},
        {"detail": "bEaReR planted-secret, then BASIC cGxhbnRlZC1zZWNyZXQ="},
        {"detail": "X-Api-Key: planted-secret"},
        {"detail": "authorization: Bearer planted-secret"},
        {"detail": '{"password": "planted-secret", "user": "x"}'},
        {"detail": '{"secret":"a \\"planted-secret\\" with spaces"}'},
        {"detail": r'{"body": "{\"access_token\": \"my planted-secret\"}"}'},
        {"detail": "{'api_key': b'planted-secret'}"},
        {"detail": "password: planted-secret"},
        {"detail": "PASSWD=planted-secret"},
        {"detail": "aws_secret_access_key=planted-secret"},
        {"detail": "GET /api/blog-generation/1/events?ticket=planted-secret HTTP/1.1"},
        {"passwd": "planted-secret"},
        {"dsn": "host=db password=planted-secret"},
        {"credentials": ["me", "planted-secret"]},
        {"ticket": "planted-secret"},
        {"X-Access-Key": "planted-secret"},
    ],
)
def test_planted_secret_is_never_logged(
    capsys: pytest.CaptureFixture[str], planted: dict[str, object]
) -> None:
    log.configure_logging("ingest", 2)
    log.get_logger("secrets").info("something happened", **planted)
    out = capsys.readouterr().out
    assert "planted-secret" not in out
    assert "cGxhbnRlZC1zZWNyZXQ" not in out
    assert "something happened" in out


def test_known_secrets_are_hidden_in_every_notation(capsys: pytest.CaptureFixture[str]) -> None:
    secret = "pla\nted/'se\"cret"
    log.configure_logging("scheduler", 2, secrets=[secret, "", "abc"])
    log.get_logger("notations").info(
        "it",
        raw=f"\0user\0{secret}".encode(),
        text=secret,
        address=f"x={quote(secret, safe='')}",
        short="the abc",
        named=f'password="{secret}"',
    )
    (line,) = lines(capsys)
    assert line["raw"] == "b'\\x00user\\x00[redacted]'"
    assert line["named"] == "password=[redacted]"
    assert (line["text"], line["address"], line["short"]) == (
        "[redacted]",
        "x=[redacted]",
        "the abc",
    )


def test_harmless_text_is_not_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure_logging("scheduler", 2)
    fields = {
        "detail": "a task-management risk-averse r8 blog at https://host/a@b?max_tokens=5",
        "other": "3 tokens: key=green-tea, keywords: 'tea', a basic tea, a ticket, monkey: 1,"
        " tokenizer=words",
        "tokens": 12,
        "wisdn": "no name of a DSN",
        "x": [1.5],
    }
    log.get_logger("plain").info("it", **fields)
    (line,) = lines(capsys)
    assert {name: line[name] for name in fields} == fields


def test_known_secret_is_hidden_in_library_messages(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure_logging("metrics", 3, secrets=["https://chat/T0/planted"])
    logging.getLogger("httpx").info("HTTP Request: POST %s", "https://chat/T0/planted")
    log.get_logger("several").info(
        "x", several=["https://chat/T0/planted"], nested={"url": "https://chat/T0/planted"}
    )
    out = capsys.readouterr().out
    assert "planted" not in out
    assert "HTTP Request: POST [redacted]" in out


def test_repeated_library_message_is_dropped_for_30_s() -> None:
    repeats = log.RepeatFilter("aiokafka", within_s=30)

    def passes(message: str, at: float, logger: str = "aiokafka.conn") -> bool:
        record = logging.LogRecord(logger, logging.ERROR, __file__, 1, message, (at,), None)
        record.created = at
        return repeats.filter(record)

    assert [passes("no node %s", at) for at in (0, 1, 29, 31, 32)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert passes("another thing", 33)
    assert all(passes("no node %s", at, "services.scheduler.loop") for at in (40, 41))
