"""Pure folding: events become aggregates, reports become totals. The clock is an argument."""
