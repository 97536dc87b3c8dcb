"""Checks the names of query parameters, for every service with an HTTP interface."""

from collections import Counter
from collections.abc import Collection, Iterable


def parameter_name_errors(given: Iterable[str], known: Collection[str]) -> list[dict[str, str]]:
    """Return an error for each unknown parameter and for each known one given more than once.

    Of a repeated parameter only one value could be used.
    """
    times = Counter(given)
    unknown = [
        {"field": name, "detail": "is not a known parameter"}
        for name in sorted(times.keys() - {*known})
    ]
    return unknown + [
        {"field": name, "detail": "must not be given more than once"}
        for name in sorted(known)
        if times[name] > 1
    ]
