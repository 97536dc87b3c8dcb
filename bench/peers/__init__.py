"""Others' ways of staying within a provider's limits, one file each: 60 tasks of one process make our kind of call.

Each file has `caller(url, limits)`: a context in which a question may be put, however long that waits. A call that
the client gives up raises openai's error.
"""
