"""`./blogstream purge`: deletes jobs that ended long ago (`shared.admin purge`)."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("purge")
