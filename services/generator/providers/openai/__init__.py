"""Writes texts by OpenAI's protocols."""
