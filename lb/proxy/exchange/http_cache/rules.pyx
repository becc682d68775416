"""What a route says of HTTP caching: see rules.pxd."""


cdef class HttpCacheRules:
    """The rules of a plan (`HttpCachePlan`)."""

    def __init__(self, plan):
        self.ttl = plan.ttl_s
        self.stale_while_revalidate = plan.stale_while_revalidate_s
        self.stale_if_error = plan.stale_if_error_s
        self.max_object = plan.max_object
        self.ignore_set_cookie = plan.ignore_set_cookie
        self.request_directives = plan.request_directives
        self.query = plan.query
        self.headers = "".join([f"{name}," for name in plan.headers]).encode("ascii")
