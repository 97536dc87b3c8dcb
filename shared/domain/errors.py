"""Three words for failure, used by every consumer; a vendor's exceptions are translated in that vendor's file."""


class Transient(Exception):
    """Worth another try, not before `delay` seconds from now (None: the caller's own backoff decides).

    `in_doubt`: nobody can say whether what was asked for was done, and billed. `blameless`: nothing about the job was
    the reason, so it uses up none of its tries.
    """

    def __init__(
        self,
        message: str,
        *,
        delay: float | None = None,
        code: str = "transient",
        in_doubt: bool = False,
        blameless: bool = False,
    ) -> None:
        super().__init__(message)
        self.delay = delay
        self.code = code
        self.in_doubt = in_doubt
        self.blameless = blameless


class Permanent(Exception):
    """Trying again cannot help; the job fails with this reason. `code` is stable and short."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class InvalidMessage(Exception):
    """A record that cannot be understood: it goes to the dead-letter topic and the consumer goes on."""

    def __init__(
        self, reason: str, *, topic: str = "", partition: int = -1, offset: int = -1
    ) -> None:
        super().__init__(f"{reason} (at {topic}[{partition}]@{offset})" if topic else reason)
        self.reason = reason
        self.topic = topic
        self.partition = partition
        self.offset = offset


class Unavailable(Exception):
    """Something that a service needs did not answer before the deadline; one line says what, where and what to do."""
