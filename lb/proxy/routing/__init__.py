"""Route tables, conditions, and what a route does to a request: rewrites, splits, rate limits, CORS, own answers.

The choice of an endpoint belongs to lb.upstream and lb.balancing.
"""
