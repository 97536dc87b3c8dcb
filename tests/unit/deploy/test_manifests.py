"""The deployment files: compose.yaml, Dockerfile, Kubernetes, systemd, Procfile.

They are checked without a cluster, and the image's commands run in a copy of its /app folder.
"""

import configparser
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyOptions

from migrations.settings import LOGIN_VARIABLES, MigrationSettings
from sandbox import configuration
from sandbox.system.home import ROOT
from services.ingest.webhooks.rules import ForbiddenTargetError, WebhookTarget, pinned_addresses
from shared.kafka.topics import GENERATION, GENERATOR_GROUP
from shared.runtime.settings import AdmissionSettings, KafkaSettings, Settings
from tests.support.docker_image import fill, run_in

SERVICES = ("ingest", "scheduler", "generator", "metrics")
READERS: Mapping[str, type[Settings]] = {**configuration.SERVICES, "migrate": MigrationSettings}
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted(
    path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.name != "kustomization.yaml"
)


def compose_text() -> str:
    """Return compose.yaml with its variables replaced by their defaults or by a word."""
    text, changed = (ROOT / "compose.yaml").read_text(), 1
    while changed:  # innermost first: a default may contain another variable
        text, changed = re.subn(
            r"\$\{\w+(:-([^${}]*)|:\?[^${}]*)?\}",
            lambda found: found[2] if found[2] is not None else "given",
            text,
        )
    return text


def _raw_compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(compose_text())
    return loaded


def kubernetes_objects() -> list[dict[str, Any]]:
    return [found for path in MANIFESTS for found in yaml.safe_load_all(path.read_text())]


def workloads() -> dict[str, dict[str, Any]]:
    """Return deployments, stateful sets and jobs by name."""
    return {
        item["metadata"]["name"]: item
        for item in kubernetes_objects()
        if "template" in item.get("spec", {})
    }


def test_compose_file_is_valid_and_has_all_services() -> None:
    options = PyOptions()
    options.apply_merge = True
    spec = options.from_yaml(compose_text())
    spec.validate()
    assert {*SERVICES, "kafka", "postgres", "migrate", "prometheus", "grafana"} == set(
        compose()["services"]
    )


def passed_on(service: str) -> set[str]:
    """Return the variables that compose.yaml passes to a service from the caller's environment."""
    environment = _raw_compose()["services"][service]["environment"]
    return {
        name
        for name, value in environment.items()
        if value is None or value.startswith(f"${{{name}:")
    }


@pytest.mark.parametrize("name", SERVICES)
def test_compose_passes_every_setting_to_its_service(name: str) -> None:
    read = {one.name for one in configuration.list_variables(configuration.SERVICES[name])}
    by_image = set(re.findall(r"(\w+)=", (ROOT / "Dockerfile").read_text()))
    by_compose = {"DATABASE_URL", "METRICS_URL", "INGEST_URL"} & set(
        compose()["services"][name]["environment"]
    )
    published = {"PORT", "METRICS_PORT"} & set(
        re.findall(r"\w+", str(_raw_compose()["services"][name].get("ports")))
    )
    assert read - by_image - by_compose - published <= passed_on(name)
    tracing = {f"OTEL_EXPORTER_OTLP_{end}" for end in ("ENDPOINT", "TRACES_ENDPOINT", "HEADERS")}
    assert tracing | {"OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER"} <= passed_on(name)


@pytest.mark.parametrize("name", [*SERVICES, "migrate"])
def test_secrets_reach_only_the_services_that_read_them(name: str) -> None:
    # `docker compose run migrate shared.admin` connects to Kafka
    own = secrets_of(READERS[name]) | {"KAFKA_SASL_PASSWORD"}
    others = set().union(*map(secrets_of, READERS.values())) - own
    assert not others & set(compose()["services"][name]["environment"])
    (container,) = workloads()[name]["spec"]["template"]["spec"]["containers"]
    references = {entry["name"] for entry in container["env"]}
    assert own - {"KAFKA_SASL_PASSWORD"} <= references
    assert not others & references


def secrets_of(settings: type[Settings]) -> set[str]:
    return {one.name for one in configuration.list_variables(settings) if one.kind == "secret"}


@pytest.mark.parametrize("name", [*SERVICES, "migrate"])
def test_config_map_reaches_every_pod_and_has_no_secret(name: str) -> None:
    (container,) = workloads()[name]["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": "blogstream"}}]
    (config,) = [found for found in kubernetes_objects() if found["kind"] == "ConfigMap"]
    assert not set().union(*map(secrets_of, READERS.values())) & set(config["data"])


def test_scalable_services_have_no_fixed_name_or_port() -> None:
    services = compose()["services"]
    assert not any("container_name" in service for service in services.values())
    assert not any("ports" in services[name] for name in ("generator", "scheduler"))
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_ingest_and_scheduler_get_the_same_queue_settings() -> None:
    names = {
        name.upper()
        for name in AdmissionSettings.model_fields.keys() - Settings.model_fields.keys()
    }
    ingest, scheduler = (
        compose()["services"][service]["environment"] for service in ("ingest", "scheduler")
    )
    assert names <= ingest.keys()
    assert {name: ingest[name] for name in names} == {name: scheduler.get(name) for name in names}


def test_files_mounted_by_compose_exist() -> None:
    mounts = [
        str(mount)
        for service in compose()["services"].values()
        for mount in service.get("volumes", [])
    ]
    for mount in mounts:
        if mount.startswith("./"):
            assert (ROOT / mount.split(":")[0]).exists(), mount


def test_dockerfile_passes_hadolint() -> None:
    found = subprocess.run(
        [_tool("hadolint"), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    app = tmp_path_factory.mktemp("app")
    fill(app)
    return app


@pytest.mark.parametrize("name", [*SERVICES, "migrate"])
def test_image_command_without_settings_exits_with_3(image: Path, name: str) -> None:
    command = compose()["services"][name]["command"]
    assert command == workloads()[name]["spec"]["template"]["spec"]["containers"][0]["args"]
    ended = run_in(image, *command)
    assert ended.returncode == 3, ended.stderr
    assert "the environment is not right" in ended.stdout + ended.stderr


def test_health_probe_of_the_image(image: Path, tmp_path: Path) -> None:
    heartbeat = tmp_path / "heartbeat"
    missing = run_in(image, "shared.health", HEARTBEAT_FILE=str(heartbeat))
    assert (missing.returncode, missing.stderr.count("no heartbeat")) == (1, 1)
    heartbeat.touch()
    assert run_in(image, "shared.health", HEARTBEAT_FILE=str(heartbeat)).returncode == 0
    assert run_in(image, "shared.health", "http://127.0.0.1:9/livez").returncode == 1
    assert run_in(image, "shared.health").returncode == 1


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
def test_manifest_matches_the_kubernetes_schema(manifest: Path) -> None:
    found = subprocess.run(
        [_tool("kubernetes-validate"), "--strict", "--quiet", str(manifest)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout) == (0, ""), found.stdout + found.stderr


def test_kustomization_lists_every_manifest() -> None:
    named = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    assert sorted(named) == [path.name for path in MANIFESTS]


@pytest.mark.parametrize("name", SERVICES)
def test_pods_have_probes_limits_and_no_privileges(name: str) -> None:
    pod = workloads()[name]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert "livenessProbe" in container
    assert container["resources"]["limits"]["memory"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    variables = {entry["name"]: entry for entry in container.get("env", [])}
    assert all("secretKeyRef" in entry["valueFrom"] for entry in variables.values())
    assert ("OPENAI_API_KEY" in variables) == (name == "generator")


def test_migrate_container_can_run_operators_commands() -> None:
    """`docker compose run --rm migrate shared.admin …`"""
    migrate = compose()["services"]["migrate"]
    assert {*map(str.upper, KafkaSettings.model_fields), "DATABASE_URL"} <= set(
        migrate["environment"]
    )
    assert migrate["volumes"] == ["kafka-tls:/run/kafka:ro"]


def test_services_log_in_with_their_own_roles() -> None:
    """Each service gets only the login that `migrations up` creates for it, never the owner's."""
    named: dict[str, str] = {}
    for name in SERVICES:
        (container,) = workloads()[name]["spec"]["template"]["spec"]["containers"]
        variables = {
            entry["name"]: entry["valueFrom"]["secretKeyRef"]["key"] for entry in container["env"]
        }
        named[name] = variables["DATABASE_URL"]
        assert not variables.keys() & LOGIN_VARIABLES.keys()
    assert {
        login: tuple(name for name in named if named[name] == login) for login in LOGIN_VARIABLES
    } == LOGIN_VARIABLES
    migrate = compose()["services"]["migrate"]["environment"]
    for name in SERVICES:
        environment = compose()["services"][name]["environment"]
        assert environment["DATABASE_URL"] == migrate[named[name]] != migrate["DATABASE_URL"]
        assert not environment.keys() & LOGIN_VARIABLES.keys()
    (job,) = workloads()["migrate"]["spec"]["template"]["spec"]["containers"]
    keys = {entry["name"]: entry["valueFrom"]["secretKeyRef"]["key"] for entry in job["env"]}
    assert keys == {name: name for name in ("DATABASE_URL", *LOGIN_VARIABLES)}


@pytest.mark.parametrize("name", SERVICES)
def test_kafka_password_and_certificates_are_optional(name: str) -> None:
    pod = workloads()[name]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (password,) = [
        entry["valueFrom"] for entry in container["env"] if entry["name"] == "KAFKA_SASL_PASSWORD"
    ]
    assert password == {
        "secretKeyRef": {"name": "blogstream", "key": "KAFKA_SASL_PASSWORD", "optional": True}
    }
    (files,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "kafka-tls"]
    assert files == {"secretName": "kafka-tls", "optional": True}
    (mounted,) = [mount for mount in container["volumeMounts"] if mount["name"] == "kafka-tls"]
    assert (mounted["mountPath"], mounted["readOnly"]) == ("/run/kafka", True)
    assert "kafka-tls:/run/kafka:ro" in compose()["services"][name]["volumes"]


def test_suggested_settings_of_a_secured_kafka_are_valid() -> None:
    text = (DEPLOY / "kubernetes" / "config.yaml").read_text()
    suggested = dict(re.findall(r"^  # (KAFKA_\w+): (\S+)$", text, re.MULTILINE))
    assert {*suggested, "KAFKA_SASL_PASSWORD"} <= set(
        compose()["services"]["ingest"]["environment"]
    )
    values = {name.lower(): value for name, value in suggested.items()}
    settings = KafkaSettings(
        kafka_bootstrap_servers="kafka:9092", kafka_sasl_password="secret", **values
    )
    assert settings.kafka_uses_tls
    assert settings.kafka_uses_sasl


def may_reach(pod: str, address: str, port: int) -> bool:
    """Return whether a policy lets a pod connect to an address outside the cluster."""
    return any(
        any(entry["port"] == port for entry in rule["ports"])
        and _covers(rule.get("to"), ip_address(address))
        for policy in kubernetes_objects()
        if policy["kind"] == "NetworkPolicy" and _selects(policy["spec"]["podSelector"], pod)
        for rule in policy["spec"].get("egress", ())
    )


def _selects(selector: dict[str, Any], pod: str) -> bool:
    selected = [one["values"] for one in selector.get("matchExpressions", ())]
    selected += [[name] for name in selector.get("matchLabels", {}).values()]
    return all(pod in names for names in selected)


def _covers(peers: list[dict[str, Any]] | None, address: IPv4Address | IPv6Address) -> bool:
    """Return whether the peers include an address. Peers selected by labels are in the cluster."""
    blocks = [peer["ipBlock"] for peer in peers or () if "ipBlock" in peer]
    return peers is None or any(
        address in ip_network(block["cidr"])
        and not any(address in ip_network(excluded) for excluded in block.get("except", ()))
        for block in blocks
    )


@pytest.mark.parametrize("pod", SERVICES)
def test_pods_reach_kafka_postgresql_and_the_trace_collector(pod: str) -> None:
    assert all(may_reach(pod, "10.1.2.3", port) for port in (53, 5432, 9092, 9093, 9094, 4318))
    assert not may_reach(pod, "10.1.2.3", 22)


@pytest.mark.parametrize("pod", ["ingest", "generator", "metrics"])
def test_https_reaches_only_public_addresses(pod: str) -> None:
    """The network policy blocks every address that ingest refuses as a webhook target."""
    assert all(
        may_reach(pod, address, 443)
        for address in ("1.1.1.1", "104.18.7.192", "2606:4700::6812:7c0")
    )
    private = [
        "10.0.0.1",
        "172.31.9.9",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "127.0.0.1",
        "fd00:ec2::254",
    ]
    for address in [*private, "fe80::1", "::1", "0.0.0.0", "224.0.0.1", "2002:a00:1::"]:
        assert not may_reach(pod, address, 443), address
        with pytest.raises(ForbiddenTargetError):
            pinned_addresses(
                WebhookTarget(host="shop.example", port=443, scheme="https"),
                [address],
                loopback=False,
            )
    assert not may_reach("scheduler", "1.1.1.1", 443)


def test_autoscaler_starts_at_most_one_worker_per_partition() -> None:
    scaler = yaml.safe_load((DEPLOY / "kubernetes" / "keda" / "scaledobject.yaml").read_text())[
        "spec"
    ]
    assert scaler["maxReplicaCount"] == GENERATION.partitions
    (trigger,) = scaler["triggers"]
    assert (trigger["metadata"]["topic"], trigger["metadata"]["consumerGroup"]) == (
        GENERATION.name,
        GENERATOR_GROUP,
    )
    assert scaler["scaleTargetRef"]["name"] in workloads()


@pytest.mark.parametrize(
    "unit", sorted((DEPLOY / "systemd").glob("*.service")), ids=lambda path: path.stem
)
def test_systemd_units_run_existing_modules(unit: Path) -> None:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign] # names keep their capitals
    parsed.read(unit)
    words = shlex.split(parsed["Service"]["ExecStart"])
    assert words[1] == "-m"
    assert (ROOT / words[2].replace(".", "/") / "__main__.py").exists()
    files = re.findall(r"^EnvironmentFile=(.+)$", unit.read_text(), re.MULTILINE)
    # "-" marks an optional file
    own_files = {"migrate": "", "ingest": "", "metrics": "-", "generator@": "-"}
    expected = [
        f"{optional}/etc/blogstream/{name.rstrip('@')}.env"
        for name, optional in own_files.items()
        if unit.stem.endswith(name)
    ]
    assert files == ["/etc/blogstream/env", *expected]


def test_restarted_systemd_service_does_not_migrate() -> None:
    """A service that ends while PostgreSQL is unavailable must restart without a migration."""
    for unit in sorted((DEPLOY / "systemd").glob("*.service")):
        text = unit.read_text()
        if unit.stem.endswith("migrate"):
            assert {"Type=oneshot", "RemainAfterExit=yes"} <= set(text.splitlines())
        else:
            assert "Requires=blogstream-migrate.service" in text
            assert re.search("^After=.*blogstream-migrate.service", text, re.MULTILINE)
            assert "Restart=always" in text


def test_procfile_runs_every_service() -> None:
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert {command.split("-m ")[1] for command in lines.values()} == {
        "migrations up",
        *(f"services.{name}" for name in SERVICES),
    }


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))
