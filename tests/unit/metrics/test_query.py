"""Parsing of query parameters."""

import pytest

from services.metrics.http import query


def test_invalid_query_parameters_are_named() -> None:
    parameter = query.IntegerParameter(default=20, low=1, high=100)
    assert query.parse_integers([("limit", "7")], limit=parameter) == {"limit": 7}
    assert query.parse_integers([], limit=parameter) == {"limit": 20}
    for wrong in ("0", "101", "-1", "1.5", "", "٣", "9" * 5_000):
        with pytest.raises(query.InvalidQueryError) as caught:
            query.parse_integers([("limit", wrong), ("page", "1")], limit=parameter)
        assert [error["field"] for error in caught.value.errors] == ["page", "limit"]
    with pytest.raises(query.InvalidQueryError, match="limit must not be given more than once"):
        query.parse_integers([("limit", "7"), ("limit", "8")], limit=parameter)
    with pytest.raises(query.InvalidQueryError, match="format must not be given more than once"):
        query.parse_choice([("format", "a"), ("format", "a")], "format", ("a", "b"), "b")
