"""`./blogstream stores`: what stores weigh; as `python -m shared.admin stores` has it."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("stores")
