"""HTTP caching on the data path: a request is answered from the cache, or its answer is kept on its way to the client.

What may be kept and given is decided in lb.http.caching; the bytes are in lb.cache.
"""
