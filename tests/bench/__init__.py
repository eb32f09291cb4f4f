"""The benchmarks' own arithmetic, and their paths in small."""
