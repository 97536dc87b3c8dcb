"""`python -m migrations status|up|down|grant`, on DATABASE_URL."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

import asyncpg

from migrations import grants, runner
from migrations.settings import MigrationSettings
from shared.domain.errors import Unavailable
from shared.observability import log
from shared.runtime.lifecycle import EXIT_UNAVAILABLE


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m migrations", description="Migrations on DATABASE_URL"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="which are applied, and when")
    commands.add_parser(
        "up", help="apply all that are missing, and grant to the roles of *_DATABASE_URL"
    )
    down = commands.add_parser("down", help="revert the newest")
    down.add_argument("--steps", type=parse_count, default=1, help="how many to revert (default 1)")
    grant = commands.add_parser(
        "grant", help="let a role do what services need, and no more; again after each up"
    )
    grant.add_argument("role", help="a role that exists, and that services log in with")
    grant.add_argument(
        "services",
        nargs="*",
        metavar="SERVICE",
        help=f"of {', '.join(grants.SERVICES)} (default: all)",
    )
    arguments = parser.parse_args()
    if unknown := set(getattr(arguments, "services", ())) - set(grants.SERVICES):
        parser.error(f"no such service: {', '.join(sorted(unknown))}")
    try:
        settings = MigrationSettings.from_environment()
        log.configure_logging("migrations", settings.log_level, secrets=settings.secrets())
        if arguments.command == "grant":
            asyncio.run(run_grant(settings, arguments.role, arguments.services))
        else:
            asyncio.run(run_command(arguments.command, settings, getattr(arguments, "steps", 1)))
    except Unavailable as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_UNAVAILABLE)
    except asyncpg.InsufficientPrivilegeError as error:
        print(f"only the owner of the tables can migrate: {error}", file=sys.stderr)
        sys.exit(EXIT_UNAVAILABLE)


def parse_count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError("must be a number from 1 on")
    return int(text)


async def run_grant(settings: MigrationSettings, role: str, services: Sequence[str]) -> None:
    dsn, chosen = settings.database_url.get_secret_value(), services or grants.SERVICES
    await grants.grant_role(dsn, role, chosen, deadline_s=settings.startup_deadline_s)
    _print_granted(role, chosen)


def _print_granted(role: str, services: Sequence[str]) -> None:
    print(f"[Migration] {role} may do what {', '.join(services)} need, and no more")


async def run_command(command: str, settings: MigrationSettings, steps: int = 1) -> None:
    """Run one command and print a line for each migration."""
    dsn, deadline_s = settings.database_url.get_secret_value(), settings.startup_deadline_s
    if command == "status":
        for state in await runner.list_states(dsn, deadline_s=deadline_s):
            applied = (
                f"applied {state.applied_at:%Y-%m-%d %H:%M:%S}" if state.applied_at else "pending"
            )
            changed = " (the file has changed since)" if state.changed else ""
            print(f"{state.version} {state.name}: {applied}{changed}")
        return
    if command == "up":
        done = await runner.apply_missing(dsn, deadline_s=deadline_s)
        for migration in done:
            print(migration.message or f"[Migration] {migration.version} {migration.name} applied")
        for role, services in (
            await grants.prepare_logins(dsn, settings.logins(), deadline_s=deadline_s)
        ).items():
            _print_granted(role, services)
    else:
        done = await runner.revert_newest(dsn, steps=steps, deadline_s=deadline_s)
        for migration in done:
            print(f"[Migration] {migration.version} {migration.name} reverted")
    if not done:
        print("[Migration] nothing to do")


if __name__ == "__main__":
    main()
