"""Micro-benchmarks of hot functions (pytest-benchmark): `make bench-micro`. Each also checks its function's result."""
