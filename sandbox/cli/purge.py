"""`./blogstream purge`: jobs that ended long ago; as `python -m shared.admin purge` has it."""

from sandbox.cli.admin import Administration

application = Administration("purge")
