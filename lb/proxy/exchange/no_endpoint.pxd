"""What a client is told whose exchange gets no endpoint of its pool."""

from lb.upstream.pool cimport Pool


# Whether a pool whose endpoints are started when they are needed has none.
cdef bint is_at_zero(Pool pool, int why) noexcept
# By `why`, Q_… of lb.upstream.queue: the kind of the failure (lb.failure), and the message for the client. `late`: the
# exchange's deadline has passed.
cdef tuple no_endpoint(Pool pool, int why, bint late)
