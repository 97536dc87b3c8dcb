"""Webhooks by the Standard Webhooks specification: the end of a job is told to the URL that its request named.

feed (blog.results → deliveries in PostgreSQL) → sender (due deliveries → signed POSTs) → log, which api shows.
"""
