"""Calls the AI providers: one module for each vendor, which also translates the vendor's errors."""
