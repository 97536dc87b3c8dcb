"""Checks the set-up: settings, PostgreSQL, Kafka, and each provider with its cheapest call."""
