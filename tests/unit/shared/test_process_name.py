"""A process name is unique, and PostgreSQL keeps all of it."""

import socket

import pytest

from shared.runtime.settings import process_name

_POD = "blogstream-generator-with-a-long-release-name-6c9f7d5b4-x2x9z"


@pytest.mark.parametrize("host", ["vm", _POD])
def test_process_name_is_short_and_never_repeats(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A container that restarts has the same host name and the same pid."""
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    monkeypatch.setattr("os.getpid", lambda: 4_194_304)
    name, next_name = process_name("generator"), process_name("generator")
    assert name != next_name
    assert name.startswith("generator-")
    assert host[-10:] in name
    assert len(name) <= 63, "the longest application_name"
