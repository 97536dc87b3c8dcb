"""The table of topics: names as published, one home for every message, nobody unknown reads or writes."""

from shared.domain.messages import MESSAGES
from shared.kafka.topics import CONTROL, DEAD_LETTER, TOPICS

SERVICES = {"ingest", "scheduler", "generator", "metrics", "dead-letters"}


def test_names_and_keys_are_the_published_ones() -> None:
    assert {topic.name: topic.key for topic in TOPICS} == {
        "blog.requests": "store",
        "blog.generation": "job",
        "blog.results": "store",
        "blog.workers": "worker",
        "blog.control": "store",
        "blog.idempotency": "store",
        "blog.dead-letter": "job",
    }


def test_every_message_travels_on_exactly_one_topic() -> None:
    carried = [message for topic in TOPICS for message in topic.messages]
    assert sorted(carried, key=str) == sorted(MESSAGES, key=str)


def test_everybody_named_exists() -> None:
    for topic in TOPICS:
        assert topic.producers, topic.name
        assert topic.consumers, topic.name
        assert {*topic.producers, *topic.consumers} <= SERVICES


def test_only_the_doors_are_compacted_and_dead_letters_carry_anything() -> None:
    assert [topic for topic in TOPICS if topic.compacted] == [CONTROL]
    assert [topic for topic in TOPICS if not topic.messages] == [DEAD_LETTER]
