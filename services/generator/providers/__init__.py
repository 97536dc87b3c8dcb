"""Calls the AI providers: a package for each vendor, with tables of its calls' outcomes."""
