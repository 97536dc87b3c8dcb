"""`./blogstream keys`: manages API keys; the same as `python -m shared.admin keys`."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("keys")
