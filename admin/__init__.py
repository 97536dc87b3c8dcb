"""Operators' commands: API keys, weights of stores, dead letters, removal of old jobs.

No service imports this package. A command runs on the database and the broker that its environment
names; the image contains it, and `./blogstream` calls it.
"""
