"""`./blogstream purge`: deletes jobs that ended long ago; the same as `python -m shared.admin purge`."""

from sandbox.cli.admin import AdminCommand

application = AdminCommand("purge")
