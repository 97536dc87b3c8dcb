"""Arbitrary JSON as providers might answer it, with the names that their answers use."""

from typing import Any

from hypothesis import strategies as st

_NAMES = ("id", "status", "error", "detail", "message", "output", "retry_after", "url", "choices")


def json_values() -> st.SearchStrategy[Any]:
    names = st.sampled_from(_NAMES) | st.text()
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda children: st.lists(children) | st.dictionaries(names, children),
    )
