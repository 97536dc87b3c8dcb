"""Simulates the whole system under a virtual clock, with the production rules unchanged.

`arrivals.py` brings the requests, `system` decides and serves them, `results` measures and reports.
"""
