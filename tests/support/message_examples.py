"""The example files of messages, as records."""

from sandbox.system.home import ROOT
from shared.domain.messages import Message

EXAMPLES = ROOT / "shared" / "examples"


def example_value(message: type[Message]) -> bytes:
    """The example of a message: the value of a record."""
    return (EXAMPLES / f"{message.TYPE.removeprefix('blogstream.')}.json").read_bytes()


def type_header(message: type[Message]) -> list[tuple[str, bytes]]:
    """The only header that decoding needs."""
    return [("ce_type", message.TYPE.encode())]
