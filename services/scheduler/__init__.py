"""scheduler: decides whose turn it is. Reads requests, results and workers' reports; forwards jobs against credit."""
