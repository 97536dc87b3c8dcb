"""`./blogstream dead-letters`: manages dead letters, as does `python -m admin dead-letters`."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("dead-letters")
