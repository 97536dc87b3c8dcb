"""The demo: several shops of very unequal size ask at once; who waits how long, and what it costs, is the point."""
