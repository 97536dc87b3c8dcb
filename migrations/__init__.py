"""The database's schema, as numbered SQL files with an up and a down, and the runner that applies them."""
