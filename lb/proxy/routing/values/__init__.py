"""Values of requests in texts of the configuration (lb.config.values): how they are compiled, found and written.

What the texts are for (headers, redirects, rewrites, answers) is in lb.proxy.routing.
"""
