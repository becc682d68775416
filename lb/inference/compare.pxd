"""Two answers to one inference, compared output by output and element by element."""

from libc.stdint cimport int64_t
from lb.http.grpc.protobuf cimport span


cdef enum:
    COMPARED_MOST = 64                # outputs of an answer that are described


cdef enum:                            # what became of a comparison
    COMPARED_SAME = 0
    COMPARED_DIFFERENT = 1
    COMPARED_MALFORMED = -1           # one of the two is no ModelInferResponse, or its data does not fit its shape
    COMPARED_NO_MEMORY = -2

cdef enum:                            # of one output
    OUTPUT_SAME = 0
    OUTPUT_VALUES                     # elements beyond the tolerance
    OUTPUT_SHAPE
    OUTPUT_DATATYPE
    OUTPUT_MISSING                    # the first answer alone has it
    OUTPUT_ADDED                      # the second one alone

cdef struct tg_tolerance:
    double absolute
    double relative                   # of the first answer's element
    bint nan_equal

cdef struct tg_output:
    span name                         # in one of the messages
    int what
    int64_t count                     # elements
    int64_t different                 # of them
    double absolute                   # the largest difference; infinite where one side alone is not finite
    double relative
    int64_t at                        # the first element that differs, -1: none does
    double first                      # its values; of numbers alone
    double second

cdef struct tg_comparison:
    span model                        # in the first message
    int output_count
    tg_output[COMPARED_MOST] outputs


# Compares two messages of ModelInferResponse as numpy.allclose does: an element of floating point differs where
# |second - first| > absolute + relative * |first|; infinities are equal to themselves, NaN to NaN where `nan_equal`
# says so. Integers, booleans and BYTES have to be the same. Outputs go together by name, in whatever order. Parameters
# and the version of the model are not looked at.
cdef int compare_answers(const char *first, size_t first_size, const char *second, size_t second_size,
                         const tg_tolerance *tolerance, tg_comparison *found) noexcept nogil
