"""Many messages in one go arrive as if each had been sent by itself: in order, in its partition, none too large."""

from collections import defaultdict

import pytest
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.structs import TopicPartition

from shared.domain.messages import BlogRequested
from shared.kafka import clients
from shared.kafka.publisher import MAX_RECORD_BYTES, OutgoingMessage
from shared.kafka.topics import GENERATION, REQUESTS, Topic
from tests.support.backend import Backend, make_request


def outgoing(
    request: BlogRequested, topic: Topic = REQUESTS, partition: int | None = None
) -> OutgoingMessage:
    return OutgoingMessage(topic=topic, key=request.store, message=request, partition=partition)


async def test_each_key_keeps_its_partition_and_each_partition_its_order(backend: Backend) -> None:
    """More than one batch's worth a partition, and stores that were written to one by one before."""
    stores = [f"store-{number}" for number in range(20)]
    first = [make_request(store) for store in stores]
    for request in first:
        await backend.publisher.publish(outgoing(request))
    rest = [make_request(stores[number % 20], title="x" * 20_000) for number in range(400)]
    await backend.publisher.publish_all([outgoing(request) for request in rest])

    where = await _by_partition(backend, REQUESTS)
    homes = {
        request.store: number
        for number, requests in where.items()
        for request in requests
        if request in first
    }
    assert len(set(homes.values())) > 1, "all keys in one partition prove nothing"
    for number, requests in where.items():
        assert requests == [request for request in first + rest if homes[request.store] == number]


async def test_a_partition_that_is_named_is_taken(backend: Backend) -> None:
    requests = [make_request() for _ in range(50)]
    sent = [outgoing(request, GENERATION, number % 3) for number, request in enumerate(requests)]
    await backend.publisher.publish_all(sent)
    assert await _by_partition(backend, GENERATION) == {
        number: requests[number::3] for number in range(3)
    }


async def test_a_message_above_the_most_is_refused_and_the_next_batch_goes_out(
    backend: Backend,
) -> None:
    huge = make_request(title="x" * MAX_RECORD_BYTES)
    with pytest.raises(MessageSizeTooLargeError, match=str(MAX_RECORD_BYTES)):
        await backend.publisher.publish_all([outgoing(huge)])
    good = make_request()
    await backend.publisher.publish_all([outgoing(good)])
    assert await backend.read_records(REQUESTS) == [(good.store, good)]


async def _by_partition(backend: Backend, topic: Topic) -> dict[int, list[BlogRequested]]:
    """What each partition holds, in its order; those that hold nothing are missing."""
    name, found = (
        clients.namespace(backend.settings).topic(topic),
        defaultdict[int, list[BlogRequested]](list),
    )
    partitions = [TopicPartition(name, number) for number in range(topic.partitions)]
    async with clients.create_consumer(backend.settings) as consumer:
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        while any(
            [await consumer.position(partition) < ends[partition] for partition in partitions]
        ):
            for partition, records in (await consumer.getmany(timeout_ms=500)).items():
                messages = [clients.decode_record(record) for record in records]
                found[partition.partition] += [
                    message for message in messages if isinstance(message, BlogRequested)
                ]
    return dict(found)
