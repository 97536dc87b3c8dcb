"""Benchmarks, one module per question. Each compares in one run and reports ratios."""
