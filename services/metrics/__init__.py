"""metrics: statistics of all jobs, as JSON, Prometheus text and a dashboard.

A Faust table holds the counters. The latest reports of workers and scheduler stay in memory.
"""
