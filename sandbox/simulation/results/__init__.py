"""Measures a simulated world, and shows the result as text, JSON and a picture."""
