"""`./blogstream purge`: jobs that ended long ago; as `python -m shared.admin purge` has it."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("purge")
