"""`./blogstream stores`: manages the weights of stores; the same as `python -m shared.admin stores`."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("stores")
