"""Parses server-sent events."""

import json
from collections.abc import Iterable, Iterator

from blogstream_client.models import Event


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the complete events of a stream's lines; skip comments and an incomplete last event."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        fields[name] = value
        if not line:
            if "event" in fields:
                yield Event(name=fields["event"], data=json.loads(fields["data"]))
            fields = {}
