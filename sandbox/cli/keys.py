"""`./blogstream keys`: manages API keys (`shared.admin keys`)."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("keys")
