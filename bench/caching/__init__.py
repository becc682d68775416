"""Cache policies replayed over traces of requests, without a daemon. docs/adr/result-cache.md rests on the figures.

The cache of the daemon is `lb/cache`; `bench/scenarios` measures it at the wire."""
