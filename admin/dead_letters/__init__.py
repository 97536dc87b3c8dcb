"""The dead letters of a running system: what was put aside, looked at, sent again or discarded."""
