"""`./blogstream demo`, interrupted. Imports nothing of the services."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.whole_system import ROOT, System, temporary_home, wait_until

pytestmark = pytest.mark.timeout(420)


def test_an_interrupted_demo_stops_everything_and_exits_with_130(tmp_path: Path) -> None:
    slow = {"STANDIN_OPENAI_LATENCY_MS": "20000", "DRAIN_S": "1"}
    output = tmp_path / "output"
    with temporary_home() as home, output.open("wb") as file:
        demo = System(home)
        own = {name: value for name, value in demo.environment.items() if "PORT" not in name}
        demo.environment = own | slow
        process = subprocess.Popen(
            [ROOT / "blogstream", "demo"], env=demo.environment, stdout=file, stderr=file
        )
        try:
            wait_until(lambda: b"0 of 56 ended" in output.read_bytes(), "the demo writes")
            process.send_signal(signal.SIGINT)
            assert process.wait(90) == 130
        finally:
            process.kill()
        assert "nothing runs in" in demo.command("status", expect=3).stderr
    text = output.read_text()
    assert "Traceback" not in text
    assert "stopping kafka, postgres" in text
