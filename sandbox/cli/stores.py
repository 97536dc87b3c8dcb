"""`./blogstream stores`: manages the weights of stores (`shared.admin stores`)."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("stores")
