"""`./blogstream doctor`: checks the set-up of the environment, or else of this home."""

import asyncio
import os
from collections.abc import Mapping
from typing import Annotated

import typer
from pydantic import ValidationError

from sandbox.cli.common import is_system_running, print_line, run_coroutine
from sandbox.system.environment import PLACEHOLDERS, read_standins, standins_needed
from sandbox.system.home import current_home
from services.generator.doctor.providers import check_providers, find_blocking
from services.generator.doctor.report import print_findings, run_checks, silence_logs
from services.generator.doctor.rules import Status, format_finding
from services.generator.providers.accounts.account import accounts_from_settings
from services.generator.settings import GeneratorSettings
from shared.domain.errors import Unavailable

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_NO_SERVERS = {
    "DATABASE_URL": "postgresql://nobody@localhost/none",
    "KAFKA_BOOTSTRAP_SERVERS": "localhost:1",
}
"""The settings require addresses. With these, the servers are not checked."""


@application.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Check the settings, PostgreSQL, Kafka and each AI provider, and name the variable to change.

    Calls the text model once, with a limit of a few output tokens. Exits with 1 when a check
    failed.
    """
    silence_logs()
    variables, skip = choose_checks(
        current_home().read_env(), os.environ, is_running=is_system_running()
    )
    os.environ.update(variables)
    raise typer.Exit(print_findings(run_coroutine(run_checks(skip)), as_json=as_json))


def choose_checks(
    home: Mapping[str, str], environ: Mapping[str, str], *, is_running: bool
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables to check, and the checks to leave out with the reason of each.

    The environment takes precedence over the variables of the home's last run. A key that is new in
    the environment replaces the stand-in of that run with its address and limits.
    """
    given = {name: value for name, value in environ.items() if value}
    standins = standins_needed({**home, **given})
    replaced = set(read_standins(home)) - set(standins)
    variables = {
        name: value
        for name, value in home.items()
        if name.partition("_")[0].lower() not in replaced
    } | given
    skip: dict[str, str] = {}
    if not is_running:
        for name in standins:
            key, placeholder = PLACEHOLDERS[name]
            variables[key] = placeholder
            skip[name] = f"{key} is not set: `./blogstream up` starts a stand-in"
    if not variables.keys() & _NO_SERVERS.keys():
        variables |= _NO_SERVERS
        skip |= {
            "postgresql": "DATABASE_URL is not set: `./blogstream up` starts PostgreSQL",
            "kafka": "KAFKA_BOOTSTRAP_SERVERS is not set: `./blogstream up` starts Kafka",
        }
    return variables, skip


def check_real_providers(environ: Mapping[str, str], *, must_work: bool) -> None:
    """Check the providers whose keys are set, before a system starts, and print what is wrong.

    Raises `Unavailable` if a price is missing or, with `must_work`, if no job could succeed until a
    person acts. Leaves invalid settings to the services, which name them.
    """
    standins = standins_needed(environ)
    keys = {PLACEHOLDERS[name][0].lower(): PLACEHOLDERS[name][1] for name in standins}
    servers = {name.lower(): value for name, value in _NO_SERVERS.items()}
    try:
        settings = GeneratorSettings.model_validate(_given_settings(environ) | servers | keys)
    except ValidationError:
        return
    accounts = accounts_from_settings(settings)
    findings = asyncio.run(
        check_providers(
            accounts, dict.fromkeys(standins, ""), from_file=settings.providers_file is not None
        )
    )
    blocking = find_blocking(accounts, findings)
    if must_work and blocking is not None:
        raise Unavailable(format_finding(blocking))
    for finding in findings:
        if finding.name not in standins and finding.status is not Status.OK:
            print_line(format_finding(finding))


def _given_settings(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: environ[name.upper()]
        for name in GeneratorSettings.model_fields
        if environ.get(name.upper())
    }
