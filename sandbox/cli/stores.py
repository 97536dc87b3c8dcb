"""`./blogstream stores`: manages the weights of stores; the same as `python -m admin stores`."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("stores")
