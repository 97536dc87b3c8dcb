"""`./blogstream keys`: API keys; as `python -m shared.admin keys` has it."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("keys")
