"""Benchmarks: `make bench` measures side by side on this machine and writes `BENCHMARKS.md`."""
