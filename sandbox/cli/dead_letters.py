"""`./blogstream dead-letters`: manages the dead letter queue (`shared.admin dead-letters`)."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("dead-letters")
