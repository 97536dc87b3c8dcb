"""`./blogstream keys`: API keys; as `python -m shared.admin keys` has it."""

from sandbox.cli.admin import Administration

application = Administration("keys")
