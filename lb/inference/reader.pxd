"""Reading the JSON of a request, of any size, in steps."""

from libc.stdint cimport int64_t
from lb.net.buffer cimport tg_buffer


cdef enum:
    READ_DONE = 1
    READ_MORE = 0                     # go on
    READ_REFUSED = -1                 # see Reader.refusal
    DEPTH_MOST = 1024                 # arrays and objects in each other, in what is passed over


# A value that stays where it is in the text.
cdef struct tg_value:
    size_t at
    size_t end
    int64_t count                     # elements of an array; -1: it is another value


cdef class Reader:
    """What the protocol knows of a request is copied to a text of its own, small enough to be parsed at once; the data
    of a tensor stands there as an index into `values`. What the protocol does not know is passed over."""
    cdef const unsigned char *text
    cdef size_t size
    cdef size_t at
    cdef dict names                   # of a generate request, the inputs of its model; None: it is none
    cdef tg_buffer kept
    cdef size_t kept_most             # bytes
    cdef tg_value *values
    cdef int value_count
    cdef int value_room
    cdef int kept_values              # values and members in `kept`
    cdef int values_most
    cdef bint counts_only
    cdef int ids                      # members `id` of the request
    cdef int problem
    # Of the grammar
    cdef int expects
    cdef bint in_key
    cdef int depth
    cdef unsigned char[DEPTH_MOST + 1] closing    # the bracket that closes each open array or object
    # Of the value that is kept, noted or passed over as a whole
    cdef int way
    cdef int way_depth
    cdef size_t began                 # it, or the member that has it
    # Of the protocol
    cdef int member                   # whose value comes next
    cdef int array                    # the member whose array of tensors is open
    cdef int tensors                  # in it so far
    cdef size_t key_at
    cdef size_t key_end

    # Reads at least `bytes` more bytes, or all that are left.
    cdef int go_on(self, size_t bytes) noexcept nogil
    # Why the request was refused, as an OipError.
    cdef object refusal(self)
    # What is kept of it, parsed. Raises OipError.
    cdef object document(self)
    # That, as JSON.
    cdef bytes kept_text(self)
    # Elements of each noted value; -1: it is no array.
    cdef list counts(self)

    cdef int refuse(self, int problem) noexcept nogil
    cdef int read_string(self, size_t stop) noexcept nogil
    cdef int read_escape(self) noexcept nogil
    cdef int read_numbers(self, size_t stop) noexcept nogil
    cdef int read_scalar(self, unsigned char c) noexcept nogil
    cdef int begin_value(self, unsigned char c) noexcept nogil
    cdef int begin_member(self, unsigned char c) noexcept nogil
    cdef int begin_tensor(self, unsigned char c) noexcept nogil
    cdef int begin_named(self) noexcept nogil
    cdef bint is_named(self) noexcept
    cdef int end_value(self) noexcept nogil
    cdef int end_key(self) noexcept nogil
    cdef int close(self) noexcept nogil
    cdef int note(self, const char *key, size_t size) noexcept nogil
    cdef int keep(self, const char *text, size_t size) noexcept nogil
    cdef int keep_element(self, const char *text, size_t size) noexcept nogil


# `text` stays where it is until the reader is no longer used.
cdef Reader read_text(const char *text, size_t size, dict names)
# Keeps nothing, and refuses more than `most` values: what is done with them afterwards takes time for each.
cdef Reader count_values(const char *text, size_t size, int most)
