"""The home and its leftover processes, the cache of Kafka's jars, and the services' environment."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.servers import kafka_jars
from sandbox.system import leftovers
from sandbox.system.environment import (
    Ports,
    describe_providers,
    describe_standins,
    read_standins,
    service_environment,
)
from sandbox.system.home import Home, current_home, write_atomically
from sandbox.system.leftovers import RunningProcess
from shared.domain.errors import Unavailable

HOME = Path("/homes/one")


def process(
    pid: int, *argv: str, parent: int = 1, leads_session: bool = True, values: tuple[str, ...] = ()
) -> RunningProcess:
    return RunningProcess(
        pid=pid, parent=parent, leads_session=leads_session, argv=argv, values=frozenset(values)
    )


KAFKA = process(10, "/x/java", f"-D{leftovers.home_marker(HOME)}", "kafka.Kafka")
POSTGRES = process(11, "/x/postgres", "-D", "/elsewhere", f"-c{leftovers.home_marker(HOME)}")
GENERATOR = process(12, "/x/python", "-m", "services.generator", values=("en", "/homes/one/images"))
STANDINS = process(13, "/x/python", "-m", "sandbox.providers", values=("/homes/one/metrics",))


def test_leftovers_of_a_killed_supervisor_are_found() -> None:
    found = leftovers.find_leftovers(HOME, [KAFKA, POSTGRES, GENERATOR, STANDINS])
    assert [each.name for each in found] == ["kafka", "postgres", "generator", "standins"]


@pytest.mark.parametrize(
    "other",
    [
        process(
            20, "/x/java", f"-D{leftovers.home_marker(Path('/homes/one-more'))}", "kafka.Kafka"
        ),
        process(21, "/x/python", "-m", "services.generator", values=("/homes/one-more/images",)),
        process(
            22,
            "/x/python",
            "-m",
            "services.generator",
            values=("/homes/one/images",),
            leads_session=False,
        ),
        process(
            23, "/x/python", "-m", "services.generator", values=("/homes/one/images",), parent=99
        ),
        process(24, "/x/python", "-m", "pytest", values=("/homes/one/images",)),
        process(25, "/usr/bin/tail", "-f", "/homes/one/logs/app.log"),
        process(26, "sh"),
    ],
    ids=[
        "server of another home",
        "service of another home",
        "started by a shell",
        "supervised",
        "not a service",
        "log reader",
        "shell",
    ],
)
def test_other_processes_are_not_leftovers(other: RunningProcess) -> None:
    supervisor = process(99, "/x/python", "-m", "sandbox.cli", "run", "generator")
    assert leftovers.find_leftovers(HOME, [supervisor, other]) == []


def test_home_is_in_the_project_by_default(tmp_path: Path) -> None:
    assert current_home({}).path.name == ".blogstream"
    assert current_home({"BLOGSTREAM_HOME": str(tmp_path)}).path == tmp_path


def test_unwritable_home_is_a_one_line_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(
        Unavailable,
        match=r"^cannot write to the home [^\n]+; set BLOGSTREAM_HOME to another folder$",
    ):
        Home(file / "home").prepare()


def test_locked_home_is_a_one_line_error(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    with (
        home.locked(),
        pytest.raises(Unavailable, match=r"^a system is already running in [^\n]+$"),
        home.locked(),
    ):
        pass
    with home.locked():  # the lock was released
        pass


def test_env_file_round_trips_and_is_private(tmp_path: Path) -> None:
    home = Home(tmp_path)
    variables = {
        "PLAIN": "a",
        "EMPTY": "",
        "QUOTED": 'it\'s $HOME, "two" words',
        "URL": "postgresql://a:b@c/d?e=f",
    }
    home.write_env(variables)
    assert home.read_env() == variables
    assert home.env_file.stat().st_mode & 0o777 == 0o600


def test_incomplete_state_file_reads_as_empty(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.read_state() == {}
    write_atomically(home.state_file, b'{"supervisor": 1')
    assert home.read_state() == {}


@pytest.fixture
def request_jar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], list[str]]:
    """Requests one pinned jar while the network serves `content`; returns the reported lines."""
    pins = tmp_path / "pins"
    pins.write_text(f"{hashlib.sha256(b'right').hexdigest()}  a.jar\n")
    monkeypatch.setattr(kafka_jars, "_PINS", pins)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def request(content: bytes) -> list[str]:
        def download(temporary: Path) -> dict[str, Path]:
            (temporary / "a.jar").write_bytes(content)
            return {"a.jar": temporary / "a.jar"}

        monkeypatch.setattr(kafka_jars, "_download", download)
        reported: list[str] = []
        (jar,) = kafka_jars.verified_class_path(tmp_path / "home", reported.append)
        assert jar.read_bytes() == b"right"
        return reported

    return request


def test_jars_are_fetched_once_and_refetched_when_damaged(
    request_jar: Callable[[bytes], list[str]], tmp_path: Path
) -> None:
    assert request_jar(b"right") == ["fetching Kafka 4.4.0 (43 MB, once)"]
    assert request_jar(b"never requested") == []
    (jar,) = (tmp_path / "cache").rglob("a.jar")
    jar.write_bytes(b"rig")
    (tmp_path / "cache" / "blogstream" / "fetching-cut-half-way").mkdir()
    assert request_jar(b"right") == ["fetching Kafka 4.4.0 (43 MB, once)"]
    assert not list((tmp_path / "cache" / "blogstream").glob("fetching-*"))


def test_jar_with_a_wrong_digest_is_refused_and_removed(
    request_jar: Callable[[bytes], list[str]], tmp_path: Path
) -> None:
    with pytest.raises(
        Unavailable, match=r"^Kafka's jar a\.jar does not match its pinned SHA-256: not started$"
    ):
        request_jar(b"wrong")
    assert not list((tmp_path / "cache").rglob("*.jar"))
    assert request_jar(b"right") == ["fetching Kafka 4.4.0 (43 MB, once)"]


def test_home_keeps_the_jars_without_a_writable_cache(
    request_jar: Callable[[bytes], list[str]], tmp_path: Path
) -> None:
    (tmp_path / "cache").touch()  # no folder can be made there, not even by root
    (tmp_path / "home").mkdir()
    assert request_jar(b"right") == ["fetching Kafka 4.4.0 (43 MB, once)"]
    assert list((tmp_path / "home").rglob("a.jar"))


PORTS = Ports(ingest=1, metrics=2, standin_openai=3, standin_replicate=4)


def environment_of(tmp_path: Path, **environ: str) -> dict[str, str]:
    return service_environment(
        Home(tmp_path), PORTS, database_url="d", bootstrap="b", environ=environ
    )


def test_settings_reach_the_services_except_server_addresses(
    tmp_path: Path,
) -> None:
    variables = environment_of(
        tmp_path,
        BURST_S="2",
        DEAD_LETTER_LIMIT="7",
        OPENAI_RPM="9",
        DATABASE_URL="another",
        EDITOR="vi",
    )
    assert (variables["BURST_S"], variables["DEAD_LETTER_LIMIT"], variables["OPENAI_RPM"]) == (
        "2",
        "7",
        "9",
    )
    assert variables["DATABASE_URL"] == "d"
    assert "EDITOR" not in variables


def test_a_sourced_env_file_still_selects_the_stand_ins(tmp_path: Path) -> None:
    before = environment_of(tmp_path)
    ports = replace(PORTS, standin_openai=33)
    again = service_environment(
        Home(tmp_path), ports, database_url="d", bootstrap="b", environ=before
    )
    assert again["OPENAI_BASE_URL"] == "http://127.0.0.1:33/v1"
    assert again["STANDIN"] == "true"


def test_keys_of_the_providers_file_reach_the_services(tmp_path: Path) -> None:
    file = tmp_path / "providers.toml"
    file.write_text(
        '[[text]]\nname = "main"\nkey = "MAIN_KEY"\nmodel = "gpt-4o-mini"\n'
        "requests_per_minute = 500\ntokens_per_minute = 200_000\n"
    )
    variables = environment_of(tmp_path, PROVIDERS_FILE=str(file), MAIN_KEY="sk-1", OTHER="x")
    assert (variables["PROVIDERS_FILE"], variables["MAIN_KEY"]) == (str(file), "sk-1")
    assert not {"OTHER", "STANDIN", "OPENAI_BASE_URL"} & variables.keys()


def test_real_api_key_is_kept(tmp_path: Path) -> None:
    variables = environment_of(tmp_path, OPENAI_API_KEY="sk-real")
    assert variables["OPENAI_API_KEY"] == "sk-real"
    assert "OPENAI_BASE_URL" not in variables
    assert variables["REPLICATE_API_TOKEN"] == "r8-stand-in"


REAL_KEY, REAL_TOKEN = {"OPENAI_API_KEY": "sk-real"}, {"REPLICATE_API_TOKEN": "r8-real"}


@pytest.mark.parametrize(
    ("environ", "standins"),
    [
        ({}, ("openai", "replicate")),
        (REAL_KEY, ("replicate",)),
        (REAL_TOKEN, ("openai",)),
        (REAL_KEY | REAL_TOKEN, ()),
        ({"IMAGES": "off"}, ("openai",)),
        (REAL_KEY | {"IMAGES": "Off"}, ()),
        (REAL_KEY | {"IMAGES": "on"}, ("replicate",)),
    ],
)
def test_stand_ins_replace_only_used_providers_without_a_key(
    environ: dict[str, str], standins: tuple[str, ...], tmp_path: Path
) -> None:
    variables = environment_of(tmp_path, **environ)
    assert read_standins(variables) == standins
    assert (variables.get("STANDIN") == "true") == bool(standins)
    stated = [line for line in describe_providers(environ) if "a stand-in replaces" in line]
    assert len(stated) == len(describe_standins(standins)) == len(standins)


def test_each_provider_that_is_used_has_a_line() -> None:
    assert describe_providers(REAL_TOKEN) == [
        "OPENAI_API_KEY is not set: a stand-in replaces OpenAI; texts are samples and cost nothing",
        "REPLICATE_API_TOKEN is set: Replicate is called and may charge for it",
    ]
    local = REAL_KEY | {"OPENAI_BASE_URL": "http://localhost:4000/v1", "IMAGES": "off"}
    assert describe_providers(local) == [
        "OPENAI_API_KEY is set: the server at http://localhost:4000/v1 is called and may charge"
        " for it"
    ]
