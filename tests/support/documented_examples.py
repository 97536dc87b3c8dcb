"""Reads the examples of a Markdown page, and runs a documented shell command."""

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path

_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)
_EXPECTED_STATUS = re.compile(r"# (20[0-9])")


def code_blocks(page: Path, language: str) -> list[str]:
    """Return the contents of the page's code blocks in one language."""
    text = page.read_text(encoding="utf-8")
    return [block["lines"] for block in _BLOCK.finditer(text) if block["language"] == language]


def curl_examples(page: Path) -> list[str]:
    """Return the page's curl commands: one per line, with its answer as a comment."""
    lines = "".join(code_blocks(page, "sh")).replace("\\\n", " ").replace("\n# 20", "  # 20")
    return [line for line in lines.splitlines() if line.startswith("curl")]


def expected_status(example: str) -> str:
    """Return the status in the example's comment, or 200 without one."""
    documented = _EXPECTED_STATUS.search(example)
    return documented[1] if documented else "200"


async def run_curl(command: str, folder: Path, variables: Mapping[str, str]) -> str:
    """Run a curl command and return its output: the body, then the status on the last line."""
    process = await asyncio.create_subprocess_shell(
        command.replace("curl ", "curl -sS -w '\\n%{http_code}' ", 1),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], **variables},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, command
    return output.decode()
