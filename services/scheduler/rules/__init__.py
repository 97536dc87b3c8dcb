"""Pure decisions: the order of jobs and where they go. No clock, no I/O: `now` is an argument."""
