"""Webhooks by the Standard Webhooks specification: a store's server is notified when a job ends.

The consumer turns blog.results into deliveries in PostgreSQL. The sender signs and POSTs due
deliveries and records each attempt. The handlers list deliveries and replay them.
"""
