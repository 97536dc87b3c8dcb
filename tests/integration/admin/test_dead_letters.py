"""`./blogstream dead-letters` on a real broker."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord

from admin.dead_letters import actions
from sandbox.cli.__main__ import main
from shared.domain.errors import InvalidMessage
from shared.kafka import clients
from shared.kafka.envelope import Headers
from shared.kafka.ranges import read_topic
from shared.kafka.topics import DEAD_LETTER, GENERATION, REQUESTS, Topic
from tests.support.backend import Backend

POISON = b'{"id": 1, "odd": "\xff"}'
HEADERS: Headers = [
    ("ce_type", b"blogstream.blog-requested.v1"),
    ("twice", b"\xff"),
    ("twice", None),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    code: object
    out: str
    err: list[str]


class DeadLetterCommands:
    """Runs the commands in an environment that names the backend's broker and prefix."""

    def __init__(self, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
        self.backend = backend
        self._capsys = capsys

    async def run(self, *arguments: str) -> CommandResult:
        self._capsys.readouterr()
        code = await asyncio.to_thread(self._run_main, ["dead-letters", *arguments])
        output = self._capsys.readouterr()
        return CommandResult(code=code, out=output.out, err=output.err.splitlines())

    async def open_letters(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((await self.run("list", "--json")).out)
        return found

    async def publish_dead_letter(
        self, topic: Topic, partition: int, value: bytes | None = POISON
    ) -> None:
        """Publish a dead letter, as a service does with a record that it cannot decode."""
        record = ConsumerRecord(
            clients.namespace(self.backend.settings).topic(topic),
            partition,
            17,
            1_000,
            0,
            b"store-a",
            value,
            None,
            0,
            0,
            tuple(HEADERS),
        )
        await self.backend.publisher.publish_dead_letter(
            record, InvalidMessage("no uuid"), group="blog-scheduler"
        )

    async def read_records(self, topic: Topic) -> list[ConsumerRecord]:
        """All records of a topic up to now."""
        batches = read_topic(self.backend.settings, topic)
        return [record async for records in batches for record in records]

    @staticmethod
    def _run_main(arguments: Sequence[str]) -> object:
        try:
            return main(list(arguments))
        except SystemExit as end:
            return end.code


@pytest.fixture
def commands(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> DeadLetterCommands:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", backend.settings.kafka_bootstrap_servers)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", backend.settings.kafka_topic_prefix)
    return DeadLetterCommands(backend, capsys)


async def test_letters_are_listed_and_shown(commands: DeadLetterCommands) -> None:
    assert await commands.run("list") == CommandResult(
        code=0, out="", err=["no dead letter is open"]
    )
    await commands.publish_dead_letter(REQUESTS, 3)
    await commands.publish_dead_letter(REQUESTS, 4, None)

    listed = (await commands.run("list")).out.splitlines()
    topic = clients.namespace(commands.backend.settings).topic(REQUESTS)
    assert [line.split()[0] for line in listed] == ["0-0", "0-1"]
    assert f"{topic}[3]@17  blog-scheduler  InvalidMessage: no uuid  key store-a" in listed[0]
    first, second = await commands.open_letters()
    assert (first["id"], first["topic"], first["bytes"], second["bytes"]) == (
        "0-0",
        topic,
        len(POISON),
        None,
    )

    shown = await commands.run("show", "0-0")
    assert shown.out.splitlines()[-2:] == ["value (bytes)", '{"id": 1, "odd": "\\xff"}']
    details = json.loads((await commands.run("show", "0-1", "--json")).out)
    assert (details["state"], details["form"], details["value"]) == ("open", "empty", None)
    assert details["headers"][:3] == [
        ["ce_type", "blogstream.blog-requested.v1"],
        ["twice", "\\xff"],
        ["twice", None],
    ]


async def test_replayed_letter_arrives_unchanged_and_once(commands: DeadLetterCommands) -> None:
    await commands.publish_dead_letter(REQUESTS, 3)
    await commands.publish_dead_letter(REQUESTS, 3, None)
    replayed = await commands.run("replay", "0-0", "0-1")
    topic = clients.namespace(commands.backend.settings).topic(REQUESTS)
    assert (replayed.code, replayed.err) == (
        0,
        [f"replayed {one} to {topic}" for one in ("0-0", "0-1")],
    )
    arrived = await commands.read_records(REQUESTS)
    assert [(one.key, one.value, list(one.headers)) for one in arrived] == [
        (b"store-a", POISON, HEADERS),
        (b"store-a", None, HEADERS),
    ]

    again = await commands.run("replay", "0-1")
    assert again.code == 1
    assert len(again.err) == 1
    assert again.err[0].startswith("0-1 was replayed at 20")
    assert len(await commands.read_records(REQUESTS)) == 2
    assert await commands.open_letters() == []
    assert "state      replayed at 20" in (await commands.run("show", "0-0")).out


async def test_replayed_task_returns_to_its_partition(commands: DeadLetterCommands) -> None:
    for partition in (0, 11, 23):
        await commands.publish_dead_letter(GENERATION, partition)
    assert (await commands.run("replay", "--all")).code == 0
    assert sorted(record.partition for record in await commands.read_records(GENERATION)) == [
        0,
        11,
        23,
    ]
    assert await commands.run("replay", "--all") == CommandResult(
        code=0, out="", err=["no dead letter is open"]
    )


async def test_one_invalid_letter_stops_the_whole_command(commands: DeadLetterCommands) -> None:
    """One id is unknown, and one letter has no origin: no other letter is sent."""
    await commands.publish_dead_letter(REQUESTS, 0)
    await commands.backend.publisher.publish_record(
        DEAD_LETTER, key=None, value=b"\xff", headers=[("odd", None)]
    )
    unknown = await commands.run("replay", "0-0", "0-7")
    assert (unknown.code, unknown.err) == (1, ["no dead letter has the id '0-7'"])
    foreign = await commands.run("replay", "--all")
    assert (foreign.code, foreign.err) == (
        1,
        ["0-1 cannot be replayed: it does not say from which topic it came"],
    )
    assert (await commands.run("discard", "0-0", "x")).code == 1
    assert (await commands.run("show", "0-7")).code == 1
    assert await commands.read_records(REQUESTS) == []
    assert [letter["id"] for letter in await commands.open_letters()] == ["0-0", "0-1"]


async def test_discarded_letters_are_never_replayed(commands: DeadLetterCommands) -> None:
    for partition in range(3):
        await commands.publish_dead_letter(REQUESTS, partition)
    discarded = await commands.run("discard", "0-1")
    assert (discarded.code, discarded.err) == (0, ["discarded 0-1"])
    assert (await commands.run("replay", "0-1")).err[0].startswith("0-1 was discarded at 20")

    unasked = await commands.run("discard", "--all")
    assert unasked.code == 2
    assert "needs a terminal or --yes" in "".join(unasked.err)
    assert [letter["id"] for letter in await commands.open_letters()] == ["0-0", "0-2"]
    assert (await commands.run("discard", "--all", "--yes")).err == [
        "discarded 0-0",
        "discarded 0-2",
    ]
    assert await commands.open_letters() == []
    assert await commands.read_records(REQUESTS) == []


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 2), ("y\n", 0, 0)])
async def test_terminal_asks_before_all_letters_are_discarded(
    commands: DeadLetterCommands, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    for partition in range(2):
        await commands.publish_dead_letter(REQUESTS, partition)
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert (await commands.run("discard", "--all")).code == code
    assert len(await commands.open_letters()) == left


async def test_only_one_process_handles_letters_at_a_time(commands: DeadLetterCommands) -> None:
    await commands.publish_dead_letter(REQUESTS, 0)
    settings = commands.backend.settings
    async with actions.hold_handler_lock(settings):
        refused = await commands.run("replay", "0-0")
        assert (await commands.run("list")).code == 0
    assert refused.code == 3
    assert refused.err[0].startswith(
        "blogstream: dead letters are being replayed or discarded by another process"
    )
    assert (await commands.run("discard", "0-0")).code == 0


@pytest.mark.parametrize(
    "arguments", [["replay"], ["discard"], ["replay", "0-0", "--all"], ["show"]]
)
async def test_wrong_usage_exits_with_2(commands: DeadLetterCommands, arguments: list[str]) -> None:
    assert (await commands.run(*arguments)).code == 2


async def test_missing_topic_is_reported(
    commands: DeadLetterCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", "nobody.")
    answer = await commands.run("list")
    assert answer.code == 3
    assert "has no topic nobody.blog.dead-letter" in answer.err[0]
    assert (await commands.run("replay", "--all")).code == 3


async def test_unreachable_kafka_is_reported(
    commands: DeadLetterCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    answer = await commands.run("list")
    assert (answer.code, len(answer.err)) == (3, 1)
    assert answer.err[0].startswith("blogstream: Kafka at 127.0.0.1:1 does not answer")
