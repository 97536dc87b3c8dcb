"""Runs all checks and shows their findings as lines or as JSON."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, TypeVar, cast

import orjson
import structlog
from pydantic import BaseModel

from services.generator.doctor import servers
from services.generator.doctor.providers import (
    check_providers,
    find_failed_need,
    find_quota_faults,
)
from services.generator.doctor.rules import Cause, Finding, Status, format_finding
from services.generator.providers.accounts.account import accounts_from_settings
from services.generator.settings import GeneratorSettings
from shared.domain.errors import Unavailable
from shared.observability.log import create_redactor
from shared.runtime.settings import KafkaSettings, PostgresSettings, Settings

S = TypeVar("S", bound=Settings)
_VARIABLE = re.compile(r"\b(?:set )?([A-Z]+(?:_[A-Z]+)+)\b")
_FREE: Mapping[str, float] = {
    "openai_input_price": 0.0,
    "openai_output_price": 0.0,
    "replicate_price": 0.0,
}


async def run_checks(skip: Mapping[str, str]) -> list[Finding]:
    """Check the settings of the environment, PostgreSQL, Kafka and the providers.

    `skip` names checks to leave out, each with the reason: `postgresql`, `kafka`, or a provider.
    """
    groups = await asyncio.gather(
        _check_server("postgresql", PostgresSettings, servers.check_postgres, skip),
        _check_server("kafka", KafkaSettings, servers.check_kafka, skip),
        _check_generator(skip),
    )
    return [finding for group in groups for finding in group]


def print_findings(findings: list[Finding], *, as_json: bool) -> int:
    """Print the findings and return the exit code: 1 if a check failed."""
    shown = _hide_secrets(findings)
    if as_json:
        print(orjson.dumps([asdict(finding) for finding in shown]).decode())
    else:
        for finding in shown:
            print(format_finding(finding))
    return 1 if any(finding.status is Status.FAILED for finding in shown) else 0


def silence_logs() -> None:
    """Log nothing: the findings say what is wrong, and stdout is theirs."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)


async def _check_generator(skip: Mapping[str, str]) -> list[Finding]:
    """Check the settings, and the providers even if a price or a limit is wrong."""
    try:
        settings = GeneratorSettings.from_environment()
    except Unavailable as error:
        return [_settings_fault(error)]
    faults: list[Finding] = []
    try:
        accounts_from_settings(settings)
    except Unavailable as error:
        faults.append(_settings_fault(error))
    accounts = accounts_from_settings(_with_prices(settings))
    quota_faults = find_quota_faults(accounts)
    is_blocking = find_failed_need(accounts, quota_faults) is not None
    status = Status.FAILED if is_blocking else Status.WARNING
    faults += [replace(_settings_fault(fault), status=status) for fault in quota_faults.values()]
    valid = Finding(name="settings", status=Status.OK, detail="the generator's settings are valid")
    return [
        *(faults or [valid]),
        *await check_providers(accounts, skip, from_file=settings.providers_file is not None),
    ]


def _with_prices(settings: GeneratorSettings) -> GeneratorSettings:
    """Return the settings with a price for every model: the checks need none."""
    changes: dict[str, Any] = {
        name: price for name, price in _FREE.items() if getattr(settings, name) is None
    }
    if (file := settings.accounts) is not None:
        texts = [_with_missing(entry, input_price=0.0, output_price=0.0) for entry in file.text]
        images = [_with_missing(entry, price=0.0) for entry in file.image]
        changes["accounts"] = file.model_copy(update={"text": texts, "image": images})
    return settings.model_copy(update=changes)


def _with_missing(entry: BaseModel, **values: float) -> BaseModel:
    """Return an entry with these values where it has none."""
    missing = {name: value for name, value in values.items() if getattr(entry, name) is None}
    return entry.model_copy(update=missing)


async def _check_server(
    name: str,
    settings_class: type[S],
    check: Callable[[S], Awaitable[list[Finding]]],
    skip: Mapping[str, str],
) -> list[Finding]:
    if name in skip:
        return [Finding(name=name, status=Status.OK, detail=skip[name])]
    try:
        settings = settings_class.from_environment()
    except Unavailable as error:
        return [replace(_settings_fault(error), name=name)]
    return await check(settings)


def _settings_fault(error: Unavailable) -> Finding:
    named = _find_variable(str(error))
    return Finding(
        name="settings",
        status=Status.FAILED,
        detail=str(error),
        variable=named,
        cause=Cause.SETUP,
    )


def _find_variable(line: str) -> str | None:
    """Return the variable that a line asks to set, or else the first that it names."""
    named = list(_VARIABLE.finditer(line))
    asked = [found[1] for found in named if found[0].startswith("set ")]
    return next(iter([*asked, *(found[1] for found in named)]), None)


def _hide_secrets(findings: list[Finding]) -> list[Finding]:
    redact = create_redactor(_secrets())

    def hide(text: str | None) -> str | None:
        if text is None:
            return None
        hidden = cast(Mapping[str, Any], redact(None, "", {"event": text}))
        return str(hidden["event"])

    return [
        replace(
            finding,
            detail=hide(finding.detail) or "",
            url=hide(finding.url),
            words=hide(finding.words),
        )
        for finding in findings
    ]


def _secrets() -> list[str]:
    """Return the secrets of the settings that can be read."""
    secrets: list[str] = []
    for settings_class in (GeneratorSettings, PostgresSettings, KafkaSettings):
        try:
            secrets += settings_class.from_environment().secrets()
        except Unavailable:
            continue
    return secrets
