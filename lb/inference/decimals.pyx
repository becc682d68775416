"""Decimal text to floating point: the C++ library's std::from_chars, which rounds correctly and knows no locale."""

cdef extern from *:
    """
    #include <charconv>
    #include <cstdlib>
    #include <cstring>
    #include <system_error>

    static inline const char *tg_read_number(const char *text, const char *end, size_t most, double *value) {
        *value = 0;
        const std::from_chars_result read = std::from_chars(text, end, *value);
        size_t size = (size_t)(read.ptr - text);
        if (read.ec == std::errc::result_out_of_range && size <= most) {
            /* It tells neither the sign nor whether the number is too large or too small. */
            char copy[1025];
            std::memcpy(copy, text, size);
            copy[size] = 0;
            *value = std::strtod(copy, nullptr);
        }
        return read.ptr;
    }
    """
    const char *tg_read_number(const char *text, const char *end, size_t most, double *value) noexcept nogil


cdef const char *read_number(const char *text, const char *end, double *value) noexcept nogil:
    return tg_read_number(text, end, NUMBER_MOST, value)
