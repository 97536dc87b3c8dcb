"""Benchmarks, one file a question. Each compares side by side in one run and says ratios: machines are noisy."""
