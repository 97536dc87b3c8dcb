"""The sandbox's Kafka: durability after a kill, and one-line errors of a failed start."""

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from sandbox.servers import kafka
from sandbox.system.process import ChildProcess
from sandbox.system.run_log import RunLog
from shared.domain.errors import Unavailable
from tests.support.servers import start_server, stop_server

TOPIC = "kept"


async def produce(bootstrap: str, values: Sequence[bytes]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, num_partitions=3, replication_factor=1)])
    finally:
        await admin.close()
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, compression_type="lz4"
    )
    async with producer:
        await asyncio.gather(*[await producer.send(TOPIC, value) for value in values])


async def consume(bootstrap: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        TOPIC, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id="readers"
    )
    async with consumer, asyncio.timeout(30):
        return [(await consumer.getone()).value for _ in range(count)]


def test_acknowledged_records_survive_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "a höme with spaces" / "kafka"
    half_formatted = folder / "data" / "meta.properties"
    half_formatted.parent.mkdir(parents=True)
    half_formatted.write_text("cut half-w")
    values = [f"value {number}".encode() for number in range(50)]

    spec, bootstrap = kafka.prepare_server(folder, print)
    process = start_server(spec, tmp_path / "log")
    asyncio.run(produce(bootstrap, values))
    with pytest.raises(
        Unavailable, match=r"^port \d+, which Kafka's broker of this home uses, is taken; [^\n]+$"
    ):
        kafka.prepare_server(folder, print)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    spec, again = kafka.prepare_server(folder, print)
    assert again == bootstrap
    process = start_server(spec, tmp_path / "log")
    try:
        assert sorted(asyncio.run(consume(bootstrap, len(values)))) == sorted(values)
    finally:
        code = stop_server(spec, process)
    assert code in (0, 128 + signal.SIGTERM)  # stopped without a kill


async def test_failed_start_reports_the_last_output_lines(tmp_path: Path) -> None:
    spec, _ = kafka.prepare_server(tmp_path / "kafka", print)
    missing = tmp_path / "missing.properties"
    with RunLog(tmp_path / "log") as log, pytest.raises(Unavailable, match=str(missing)) as caught:
        await ChildProcess(replace(spec, argv=(*spec.argv[:-1], str(missing))), log).start()
    assert str(caught.value).startswith("kafka (pid ")
    assert "exited with 1; its last lines:" in str(caught.value)


def test_path_with_a_comma_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="its path holds a comma; set BLOGSTREAM_HOME"):
        kafka.prepare_server(tmp_path / "one, two" / "kafka", print)


async def test_cluster_id_with_a_leading_hyphen_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uuid.uuid4", lambda: UUID(bytes=b"\xf8" * 16))
    kafka.prepare_server(tmp_path / "kafka", print)
    assert (tmp_path / "kafka" / "formatted").exists()
