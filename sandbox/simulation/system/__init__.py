"""The simulated services: each is a thin shell around the production rules of its service."""
