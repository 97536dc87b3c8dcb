"""The reserved name among stores."""

ALL_STORES = "*"
"""Stands for every store, in admission states, row-level security and API keys. No store may have
this name."""
