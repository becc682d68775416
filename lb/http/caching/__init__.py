"""HTTP caching as rules (RFC 9111, 5861, 9213): directives, dates, freshness, what may be stored and answered with,
conditions, ranges, variants. Nothing here stores, sends or reads a clock; lb/proxy/exchange/http_cache does."""
