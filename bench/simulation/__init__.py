"""Scenarios that compare the fair queue with other policies in the simulated world."""
