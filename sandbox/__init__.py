"""Runs the whole system on one machine: Kafka, PostgreSQL, stand-ins for AI providers, services."""
