"""A stored answer, or the part of it that a request wants, becomes the answer of an exchange."""

from libc.stdint cimport uint64_t
from lb.http.caching.conditions cimport tg_part
from lb.http.head cimport Scan
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.exchange cimport Exchange
from lb.proxy.exchange.http_cache.stored cimport tg_stored


# What the request gets of it: all, a part, or that it has not changed. `asked` is the request's head; `size` the
# body's.
cdef void part_of(tg_part *part, const Scan *asked, const tg_stored *stored, uint64_t size,
                  bint head_method) noexcept nogil
# Makes the head, with the exchange's own fields, and sets the exchange's status: 0, or -1: out of memory. It stays
# until the next one. `said` is what Cache-Status says behind the cache's name. `age`: s that Age says; -1 = there is no
# Age field. `ttl`: whether Cache-Status has the time left, `left` s.
cdef int give_begin(Exchange exchange, const tg_stored *stored, const tg_part *part, uint64_t size, const char *said,
                    long long age, bint ttl, long long left) noexcept
# Sends the head of `give_begin`; `body`: bytes follow.
cdef void give_head(Client client, bint body) noexcept
# Sends that head and what belongs to it of the body that `stored` has. It does not end the answer, and behind it the
# client may be gone. Returns the bytes of the body.
cdef uint64_t give_whole(Client client, const tg_stored *stored, const tg_part *part, bint head_method) noexcept
# The bytes of the body that go with a part.
cdef uint64_t part_size(const tg_stored *stored, const tg_part *part, uint64_t size, bint head_method) noexcept nogil
