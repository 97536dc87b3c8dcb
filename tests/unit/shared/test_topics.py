"""The table of topics."""

from shared.domain.messages import MESSAGES
from shared.kafka.topics import CONTROL, DEAD_LETTER, TOPICS

SERVICES = {"ingest", "scheduler", "generator", "metrics", "dead-letters"}


def test_topics_have_their_published_names_and_keys() -> None:
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


def test_producers_and_consumers_are_known_services() -> None:
    for topic in TOPICS:
        assert topic.producers, topic.name
        assert topic.consumers, topic.name
        assert {*topic.producers, *topic.consumers} <= SERVICES


def test_only_control_is_compacted_and_only_dead_letters_are_raw() -> None:
    assert [topic for topic in TOPICS if topic.compacted] == [CONTROL]
    assert [topic for topic in TOPICS if not topic.messages] == [DEAD_LETTER]
