"""Emulated model servers: many in one process, each with its own service times, for latency benchmarks."""
