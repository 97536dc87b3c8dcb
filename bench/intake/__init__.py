"""Apps that accept requests, as peers of ingest, and the load clients for all of them."""
