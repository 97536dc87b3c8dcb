"""Other clients that keep to a provider's rate limits, one module for each.

60 tasks of one process make the calls of a worker. Each module has `open_peer(url, limits)`, a
context manager that yields a function for one call, which may wait. A call that the client gives up
raises the error of the openai SDK.
"""
