"""Schema of the database: numbered SQL files with an up and a down section, and their runner."""
