"""How the closed streams of a connection ended: what a peer may still send on them, and for how long (RFC 9113
section 5.1).

Remembered is what is not the rule: streams that one side has reset, and numbers that were passed over. Every other
number up to the highest belongs to a stream that both sides have ended.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

cdef enum:
    CLOSED_RESETS = 128               # streams that were reset and are remembered; what came before them is forgotten
    CLOSED_GAPS = 4                   # ranges of numbers that were passed over, likewise
    # `closed_how`
    CLOSED_ENDED = 0                  # the peer has said END_STREAM: nothing may come any more
    CLOSED_CUT                        # by a reset of ours: what the peer sent before it knew is on its way
    CLOSED_BY_PEER                    # by a reset of the peer
    CLOSED_NEVER                      # it was never opened: a stream with a higher number was
    CLOSED_FORGOTTEN                  # too long ago to tell

ctypedef struct h2_reset:
    int32_t id
    uint8_t how
    int64_t room                      # CLOSED_CUT: bytes of DATA that may be on their way

ctypedef struct h2_gap:
    int32_t first
    int32_t last

ctypedef struct h2_closed:
    h2_reset *resets                  # NULL until there is one: most connections need none
    uint32_t count                    # of all that there were
    int32_t forgotten                 # the highest number among those that are not remembered any more
    h2_gap gaps[CLOSED_GAPS]
    uint32_t gap_count


cdef void closed_free(h2_closed *closed) noexcept
# A stream that one side has reset; `room` is what the peer may have sent meanwhile.
cdef void closed_add(h2_closed *closed, int32_t id, uint8_t how, int64_t room) noexcept
# Numbers of the peer's that will not be used, both ends included.
cdef void closed_skip(h2_closed *closed, int32_t first, int32_t last) noexcept
# What is known of a stream that was reset; NULL = nothing.
cdef h2_reset *closed_find(const h2_closed *closed, int32_t id) noexcept
# CLOSED_ENDED and its like, for a number that is neither open nor idle.
cdef int closed_how(const h2_closed *closed, int32_t id) noexcept
# The peer's windows on the streams that we have reset were `by` larger than was thought.
cdef void closed_widen(h2_closed *closed, int64_t by) noexcept
