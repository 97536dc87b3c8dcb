"""Kinds of failure. The generator builds those of provider calls from its tables of outcomes."""


class Transient(Exception):
    """A failure after which the caller tries again.

    `delay`: seconds to wait at least; `None`: the caller's backoff decides. `in_doubt`: the call
    may have been carried out and billed. `blameless`: the job is not the cause, so the failure uses
    up none of its tries. `isolated`: other jobs' calls of the same kind were served meanwhile.
    """

    def __init__(
        self,
        message: str,
        *,
        delay: float | None = None,
        code: str = "transient",
        in_doubt: bool = False,
        blameless: bool = False,
        isolated: bool = False,
    ) -> None:
        super().__init__(message)
        self.delay = delay
        self.code = code
        self.in_doubt = in_doubt
        self.blameless = blameless
        self.isolated = isolated


class Permanent(Exception):
    """A failure that another try cannot repair: the job fails. `code` is short and stable."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class InvalidMessage(Exception):
    """A record that cannot be decoded: it goes to the dead letter queue, the consumer goes on."""

    def __init__(
        self, reason: str, *, topic: str = "", partition: int = -1, offset: int = -1
    ) -> None:
        super().__init__(f"{reason} (at {topic}[{partition}]@{offset})" if topic else reason)
        self.reason = reason
        self.topic = topic
        self.partition = partition
        self.offset = offset


class Unavailable(Exception):
    """A dependency did not answer in time. The text is one line: problem, place and remedy."""
