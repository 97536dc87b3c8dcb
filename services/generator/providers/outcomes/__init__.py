"""Classifies the outcomes of provider calls, and what they mean for the next ones."""
