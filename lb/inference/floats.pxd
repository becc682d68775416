"""Floating-point conversions: 16-bit formats both ways, and the shortest decimal text of FP32 and FP64."""

from libc.stdint cimport uint16_t


cdef enum:
    FLOAT_TEXT_MAX = 32               # bytes that a float's text may take

# Nearest, ties to even (IEEE 754 roundTiesToEven), straight from the double: no double rounding. False when a finite
# value is too large for the format.
cdef bint half_from_double(double value, uint16_t *out) noexcept nogil
cdef bint bfloat_from_double(double value, uint16_t *out) noexcept nogil
# Exact.
cdef float half_to_float(uint16_t bits) noexcept nogil
cdef float bfloat_to_float(uint16_t bits) noexcept nogil

# Writes the shortest decimal that reads back as the same value (as a float32 for write_float) and returns its end.
# Always with a point or an exponent, so that it reads as a floating-point number. NaN and the infinities, for which
# JSON has no number, become the strings of the protobuf JSON mapping: "NaN", "Infinity", "-Infinity".
cdef char *write_float(char *at, float value) noexcept nogil
cdef char *write_double(char *at, double value) noexcept nogil
