"""`./blogstream dead-letters` on a real broker: what was put aside is found, goes back unchanged, and only once."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord, TopicPartition

from admin.dead_letters import actions
from sandbox.cli.__main__ import main
from shared.domain.errors import InvalidMessage
from shared.kafka import clients
from shared.kafka.envelope import Headers
from shared.kafka.topics import DEAD_LETTER, GENERATION, REQUESTS, Topic
from tests.support.backend import Backend

POISON = b'{"id": 1, "odd": "\xff"}'
HEADERS: Headers = [
    ("ce_type", b"blogstream.blog-requested.v1"),
    ("twice", b"\xff"),
    ("twice", None),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    code: object
    out: str
    err: list[str]


class Desk:
    """The command, typed where the environment names the broker and the prefix of a backend."""

    def __init__(self, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
        self.backend = backend
        self._capsys = capsys

    async def type(self, *arguments: str) -> Answer:
        self._capsys.readouterr()
        code = await asyncio.to_thread(self._code, ["dead-letters", *arguments])
        said = self._capsys.readouterr()
        return Answer(code=code, out=said.out, err=said.err.splitlines())

    async def open_letters(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((await self.type("list", "--json")).out)
        return found

    async def put_aside(self, topic: Topic, partition: int, value: bytes | None = POISON) -> None:
        """As a service does with a record that it cannot read."""
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

    async def records(self, topic: Topic) -> list[ConsumerRecord]:
        """All records that stand on a topic now."""
        async with clients.create_consumer(self.backend.settings) as consumer:
            name = clients.namespace(self.backend.settings).topic(topic)
            partitions = [TopicPartition(name, number) for number in range(topic.partitions)]
            consumer.assign(partitions)
            found: list[ConsumerRecord] = []
            for partition, end in (await consumer.end_offsets(partitions)).items():
                while await consumer.position(partition) < end:
                    for batch in (await consumer.getmany(partition, timeout_ms=500)).values():
                        found += batch
            return found

    @staticmethod
    def _code(arguments: Sequence[str]) -> object:
        try:
            return main(list(arguments))
        except SystemExit as end:
            return end.code


@pytest.fixture
def desk(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desk:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", backend.settings.kafka_bootstrap_servers)
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", backend.settings.kafka_topic_prefix)
    return Desk(backend, capsys)


async def test_letters_are_listed_and_shown(desk: Desk) -> None:
    assert await desk.type("list") == Answer(code=0, out="", err=["no dead letter is open"])
    await desk.put_aside(REQUESTS, 3)
    await desk.put_aside(REQUESTS, 4, None)

    listed = (await desk.type("list")).out.splitlines()
    topic = clients.namespace(desk.backend.settings).topic(REQUESTS)
    assert [told.split()[0] for told in listed] == ["0-0", "0-1"]
    assert f"{topic}[3]@17  blog-scheduler  InvalidMessage: no uuid  key store-a" in listed[0]
    first, second = await desk.open_letters()
    assert (first["id"], first["topic"], first["bytes"], second["bytes"]) == (
        "0-0",
        topic,
        len(POISON),
        None,
    )

    shown = await desk.type("show", "0-0")
    assert shown.out.splitlines()[-2:] == ["value (bytes)", '{"id": 1, "odd": "\\xff"}']
    told = json.loads((await desk.type("show", "0-1", "--json")).out)
    assert (told["state"], told["form"], told["value"]) == ("open", "empty", None)
    assert told["headers"][:3] == [
        ["ce_type", "blogstream.blog-requested.v1"],
        ["twice", "\\xff"],
        ["twice", None],
    ]


async def test_a_replayed_letter_arrives_unchanged_and_only_once(desk: Desk) -> None:
    await desk.put_aside(REQUESTS, 3)
    await desk.put_aside(REQUESTS, 3, None)
    replayed = await desk.type("replay", "0-0", "0-1")
    topic = clients.namespace(desk.backend.settings).topic(REQUESTS)
    assert (replayed.code, replayed.err) == (
        0,
        [f"replayed {one} to {topic}" for one in ("0-0", "0-1")],
    )
    arrived = await desk.records(REQUESTS)
    assert [(one.key, one.value, list(one.headers)) for one in arrived] == [
        (b"store-a", POISON, HEADERS),
        (b"store-a", None, HEADERS),
    ]

    again = await desk.type("replay", "0-1")
    assert again.code == 1
    assert len(again.err) == 1
    assert again.err[0].startswith("0-1 was replayed at 20")
    assert len(await desk.records(REQUESTS)) == 2
    assert await desk.open_letters() == []
    assert "state      replayed at 20" in (await desk.type("show", "0-0")).out


async def test_a_task_goes_back_to_its_own_partition(desk: Desk) -> None:
    for partition in (0, 11, 23):
        await desk.put_aside(GENERATION, partition)
    assert (await desk.type("replay", "--all")).code == 0
    assert sorted(record.partition for record in await desk.records(GENERATION)) == [0, 11, 23]
    assert await desk.type("replay", "--all") == Answer(
        code=0, out="", err=["no dead letter is open"]
    )


async def test_nothing_is_half_done(desk: Desk) -> None:
    """One id among several is unknown, one letter is foreign: none of the others moves."""
    await desk.put_aside(REQUESTS, 0)
    await desk.backend.publisher.publish_record(
        DEAD_LETTER, key=None, value=b"\xff", headers=[("odd", None)]
    )
    unknown = await desk.type("replay", "0-0", "0-7")
    assert (unknown.code, unknown.err) == (1, ["no dead letter has the id '0-7'"])
    foreign = await desk.type("replay", "--all")
    assert (foreign.code, foreign.err) == (
        1,
        ["0-1 cannot be replayed: it does not say from which topic it came"],
    )
    assert (await desk.type("discard", "0-0", "x")).code == 1
    assert (await desk.type("show", "0-7")).code == 1
    assert await desk.records(REQUESTS) == []
    assert [letter["id"] for letter in await desk.open_letters()] == ["0-0", "0-1"]


async def test_discarded_letters_are_never_sent(desk: Desk) -> None:
    for partition in range(3):
        await desk.put_aside(REQUESTS, partition)
    discarded = await desk.type("discard", "0-1")
    assert (discarded.code, discarded.err) == (0, ["discarded 0-1"])
    assert (await desk.type("replay", "0-1")).err[0].startswith("0-1 was discarded at 20")

    unasked = await desk.type("discard", "--all")
    assert unasked.code == 2
    assert "add --yes" in "".join(unasked.err)
    assert [letter["id"] for letter in await desk.open_letters()] == ["0-0", "0-2"]
    assert (await desk.type("discard", "--all", "--yes")).err == ["discarded 0-0", "discarded 0-2"]
    assert await desk.open_letters() == []
    assert await desk.records(REQUESTS) == []


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("said", "code", "left"), [("n\n", 1, 2), ("y\n", 0, 0)])
async def test_at_a_terminal_all_are_discarded_when_the_answer_is_yes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, said: str, code: int, left: int
) -> None:
    for partition in range(2):
        await desk.put_aside(REQUESTS, partition)
    monkeypatch.setattr("sys.stdin", Terminal(said))
    assert (await desk.type("discard", "--all")).code == code
    assert len(await desk.open_letters()) == left


async def test_only_one_handles_letters_at_a_time(desk: Desk) -> None:
    await desk.put_aside(REQUESTS, 0)
    settings = desk.backend.settings
    async with actions.hold_handler_lock(settings):
        refused = await desk.type("replay", "0-0")
        assert (await desk.type("list")).code == 0
    assert refused.code == 3
    assert refused.err[0].startswith(
        "blogstream: dead letters are being replayed or discarded by another process"
    )
    assert (await desk.type("discard", "0-0")).code == 0


@pytest.mark.parametrize(
    "arguments", [["replay"], ["discard"], ["replay", "0-0", "--all"], ["show"]]
)
async def test_wrong_usage(desk: Desk, arguments: list[str]) -> None:
    assert (await desk.type(*arguments)).code == 2


async def test_a_cluster_without_the_topic_is_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_TOPIC_PREFIX", "nobody.")
    answer = await desk.type("list")
    assert answer.code == 3
    assert "has no topic nobody.blog.dead-letter" in answer.err[0]
    assert (await desk.type("replay", "--all")).code == 3


async def test_a_kafka_that_is_away_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    answer = await desk.type("list")
    assert (answer.code, len(answer.err)) == (3, 1)
    assert answer.err[0].startswith("blogstream: Kafka at 127.0.0.1:1 does not answer")
