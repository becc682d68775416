"""Which bodies of a route are decompressed."""

from lb.http.head cimport Field, Scan


cdef class DecompressionRules:
    cdef dict makers                  # of decoders (lb.http.decoders), by the coding's name in lower case
    cdef readonly bint requests       # those of requests
    cdef readonly bint answers        # those of answers, for clients that do not take their coding
    cdef unsigned long max_ratio      # bytes that come out for each that goes in, at most

    # Makes a decoder of the message's coding. None: it has none, several, one that is not decoded, or no body. Raises
    # what the coding's library raises.
    cdef object decoder_of(self, const Scan *scan)
    # The field with the one coding of the message, if that is decoded; else NULL.
    cdef const Field *coding_of(self, const Scan *scan) noexcept
