"""A provider account with rate limits, and the fleet of services that spends from it."""
