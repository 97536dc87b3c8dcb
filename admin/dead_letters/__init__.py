"""Dead letters of a running system: list, show, replay, discard."""
