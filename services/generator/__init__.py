"""The generator service: one process is one worker.

It runs dispatched jobs within the rate limits.
"""
