"""Simulates the fair queue and other scheduling policies under a virtual clock."""
