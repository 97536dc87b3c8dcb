"""`./blogstream dead-letters`: what no service could handle; as `python -m shared.admin dead-letters` has it."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("dead-letters")
