"""Machines without a browser: the demo takes no screenshot, and browser tests say why they skip."""

import os
from pathlib import Path

import pytest

from sandbox.demo import browser, screenshot
from shared.domain.errors import Unavailable


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, empty. Installing is not allowed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv(browser.INSTALL_VARIABLE, raising=False)
    return folder


@pytest.fixture
def allow_install(path_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(browser.INSTALL_VARIABLE, "1")


def add_command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


async def test_no_screenshot_without_a_working_browser(path_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "home" / "dashboard.png"
    assert await screenshot.take_screenshot("http://127.0.0.1:1/", target) is False
    target.parent.mkdir()
    target.write_bytes(b"of an earlier run")
    for script in ("exit 1", "exit 0"):
        add_command(path_folder, "chromium", script)
        assert await screenshot.take_screenshot("http://127.0.0.1:1/", target) is False
    assert not target.exists()


def test_nothing_is_installed_unless_asked_for(
    path_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    called = tmp_path / "apt-get-was-called"
    add_command(path_folder, "apt-get", f": > {called}")
    for value in ("", "0"):
        monkeypatch.setenv(browser.INSTALL_VARIABLE, value)
        with pytest.raises(Unavailable, match="or set BLOGSTREAM_INSTALL_BROWSER=1"):
            browser.require_browser()
    assert not called.exists()


def test_an_installed_browser_is_found(path_folder: Path) -> None:
    add_command(path_folder, "chromium", "exit 0")
    assert browser.require_browser() == path_folder / "chromium"


@pytest.mark.usefixtures("allow_install")
def test_a_failed_installation_names_the_reason(
    path_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable, match="no apt-get"):
        browser.require_browser()
    add_command(path_folder, "apt-get", "exit 100")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match="only root may install it"):
        browser.require_browser()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Unavailable, match="apt-get install chromium failed"):
        browser.require_browser()


@pytest.mark.usefixtures("allow_install")
def test_installation_updates_old_package_lists(
    path_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    add_command(
        path_folder,
        "apt-get",
        f"""
case "$1" in
  update) : > {path_folder}/updated ;;
  install)
    [ -e {path_folder}/updated ] || exit 100
    : > {path_folder}/chromium
    /bin/chmod +x {path_folder}/chromium ;;
esac""",
    )
    assert browser.require_browser() == path_folder / "chromium"
