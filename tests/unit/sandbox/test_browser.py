"""A machine without a browser: the demo goes on without a picture, and the page's tests say why they are skipped."""

import os
from pathlib import Path

import pytest

from sandbox.demo import browser, screenshot
from shared.domain.errors import Unavailable


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of commands on this machine: empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


async def test_no_picture_without_a_browser_or_with_a_broken_one(
    commands: Path, tmp_path: Path
) -> None:
    target = tmp_path / "home" / "dashboard.png"
    assert await screenshot.take_screenshot("http://127.0.0.1:1/", target) is False
    target.parent.mkdir()
    target.write_bytes(b"of an earlier run")
    for script in ("exit 1", "exit 0"):
        command(commands, "chromium", script)
        assert await screenshot.take_screenshot("http://127.0.0.1:1/", target) is False
    assert not target.exists()


def test_why_none_is_installed_is_said(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="no apt-get"):
        browser.find_or_install()
    command(commands, "apt-get", "exit 100")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match="only root may install it"):
        browser.find_or_install()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Unavailable, match="apt-get install chromium failed"):
        browser.find_or_install()


def test_one_is_installed_where_it_can_be(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists of packages are old: the first try fails, and `update` helps."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    command(
        commands,
        "apt-get",
        f"""
case "$1" in
  update) : > {commands}/updated ;;
  install) [ -e {commands}/updated ] || exit 100; : > {commands}/chromium; /bin/chmod +x {commands}/chromium ;;
esac""",
    )
    assert browser.find_or_install() == commands / "chromium"
