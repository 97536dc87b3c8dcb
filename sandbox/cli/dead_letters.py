"""`./blogstream dead-letters`: manages dead letters, as does `python -m shared.admin dead-letters`."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("dead-letters")
