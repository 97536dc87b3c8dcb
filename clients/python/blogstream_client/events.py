"""Server-sent events, as a stream's lines have them."""

import json
from collections.abc import Iterable, Iterator

from blogstream_client.models import Event


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """Those that are whole; comments and what was cut off are none."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        fields[name] = value
        if not line:
            if "event" in fields:
                yield Event(name=fields["event"], data=json.loads(fields["data"]))
            fields = {}
