"""ingest: HTTP in. Takes requests from shops, publishes them, and shows what became of them."""
