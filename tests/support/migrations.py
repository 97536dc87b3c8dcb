"""Runs `python -m migrations` as an operator does, and addresses databases by role."""

import asyncio
import sys

from sandbox.system.home import ROOT


async def run_migrations(dsn: str, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run the command on a database. Returns its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "migrations",
        *arguments,
        cwd=ROOT,
        env={"DATABASE_URL": dsn} | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


def dsn_of_role(database: str, role: str) -> str:
    """The DSN of a database for a role. `role` is URL-quoted, and is the password as well."""
    return f"postgresql://{role}:{role}@{database.split('@')[1]}"
