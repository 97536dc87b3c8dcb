"""Messages sent in batches keep their order, partition and size limit."""

from collections import defaultdict

import pytest
from aiokafka.errors import MessageSizeTooLargeError

from shared.domain.messages import BlogRequested
from shared.kafka import clients
from shared.kafka.publisher import MAX_RECORD_BYTES, OutgoingMessage
from shared.kafka.ranges import read_topic
from shared.kafka.topics import GENERATION, REQUESTS, Topic
from tests.support.backend import Backend, make_request


def outgoing_message(
    request: BlogRequested, topic: Topic = REQUESTS, partition: int | None = None
) -> OutgoingMessage:
    return OutgoingMessage(topic=topic, key=request.store, message=request, partition=partition)


async def test_keys_keep_their_partition_and_order(backend: Backend) -> None:
    """More than one batch for each partition, after messages that were sent one by one."""
    stores = [f"store-{number}" for number in range(20)]
    first = [make_request(store) for store in stores]
    for request in first:
        await backend.publisher.publish(outgoing_message(request))
    rest = [make_request(stores[number % 20], title="x" * 20_000) for number in range(400)]
    await backend.publisher.publish_all([outgoing_message(request) for request in rest])

    where = await _by_partition(backend, REQUESTS)
    homes = {
        request.store: number
        for number, requests in where.items()
        for request in requests
        if request in first
    }
    assert len(set(homes.values())) > 1, "all keys are in one partition"
    for number, requests in where.items():
        assert requests == [request for request in first + rest if homes[request.store] == number]


async def test_given_partition_is_used(backend: Backend) -> None:
    requests = [make_request() for _ in range(50)]
    sent = [
        outgoing_message(request, GENERATION, number % 3) for number, request in enumerate(requests)
    ]
    await backend.publisher.publish_all(sent)
    assert await _by_partition(backend, GENERATION) == {
        number: requests[number::3] for number in range(3)
    }


async def test_oversized_message_is_refused_and_the_next_batch_is_sent(
    backend: Backend,
) -> None:
    huge = make_request(title="x" * MAX_RECORD_BYTES)
    with pytest.raises(MessageSizeTooLargeError, match=str(MAX_RECORD_BYTES)):
        await backend.publisher.publish_all([outgoing_message(huge)])
    good = make_request()
    await backend.publisher.publish_all([outgoing_message(good)])
    assert await backend.read_records(REQUESTS) == [(good.store, good)]


async def _by_partition(backend: Backend, topic: Topic) -> dict[int, list[BlogRequested]]:
    """The requests of each partition, in their order. Empty partitions are missing."""
    found = defaultdict[int, list[BlogRequested]](list)
    async for records in read_topic(backend.settings, topic):
        for record in records:
            message = clients.decode_record(record)
            assert isinstance(message, BlogRequested)
            found[record.partition].append(message)
    return dict(found)
