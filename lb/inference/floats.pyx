"""Floating-point conversions: 16-bit formats both ways, and the shortest decimal text of FP32 and FP64.

The shortest decimal follows R. Giulietti, "The Schubfach way to render doubles" (2020): of the decimals in the
rounding interval of the value, one of the shortest, and of these the closest. The tables of scaled powers of ten are
computed when the module is loaded, with Python's integers.
"""

from libc.math cimport fabs, frexp, isinf, isnan, ldexp, ldexpf, rint
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from *:
    ctypedef unsigned long long uint128_t "unsigned __int128"

cdef enum:
    LEAST_POWER = -292                # 10^-k of the largest double
    MOST_POWER = 324                  # of the smallest

# ceil-like 128-bit significands: g(e) = floor(10^e * 2^(127 - floor(log2(10^e)))) + 1
cdef uint64_t[617] POWERS_HIGH
cdef uint64_t[617] POWERS_LOW
# The same in 64 bits, for float32: g(e) = floor(10^e * 2^(63 - floor(log2(10^e)))) + 1
cdef uint64_t[617] POWERS_SHORT


def _scaled_power(exponent, bits):
    """floor(10^exponent scaled to `bits` bits) + 1."""
    if exponent >= 0:
        power = 10 ** exponent
        shift = bits - power.bit_length()
        return (power << shift if shift >= 0 else power >> -shift) + 1
    divisor = 10 ** -exponent
    # 2^n / divisor has n - bit_length(divisor) + 1 bits: divisor is no power of two.
    return (1 << (bits - 1 + divisor.bit_length())) // divisor + 1


cdef int fill_tables() except -1:
    for exponent in range(LEAST_POWER, MOST_POWER + 1):
        wide = _scaled_power(exponent, 128)
        POWERS_HIGH[exponent - LEAST_POWER] = wide >> 64
        POWERS_LOW[exponent - LEAST_POWER] = wide & 0xFFFFFFFFFFFFFFFF
        POWERS_SHORT[exponent - LEAST_POWER] = _scaled_power(exponent, 64)
    return 0


fill_tables()


cdef bint narrow(double value, int fraction_bits, int bias, uint16_t *out) noexcept nogil:
    """Round to a 16-bit format with `fraction_bits` stored bits of significand and 15 - fraction_bits of exponent."""
    cdef uint64_t bits
    cdef uint16_t sign
    cdef uint16_t infinity = <uint16_t>(((1 << (15 - fraction_bits)) - 1) << fraction_bits)
    cdef double size = fabs(value)
    cdef int exponent
    cdef int64_t scaled
    memcpy(&bits, &value, 8)
    sign = <uint16_t>((bits >> 63) << 15)
    if isnan(value):
        out[0] = sign | infinity | <uint16_t>(1 << (fraction_bits - 1))
        return True
    if isinf(value):
        out[0] = sign | infinity
        return True
    if size == 0:
        out[0] = sign
        return True
    frexp(size, &exponent)
    exponent -= 1
    if exponent >= bias + 1:
        return False
    if exponent < 1 - bias:
        # Subnormal: units of 2^(1 - bias - fraction_bits); a carry to the least normal number comes out right by
        # itself.
        out[0] = sign | <uint16_t>(<int64_t>rint(ldexp(size, bias - 1 + fraction_bits)))
        return True
    scaled = <int64_t>rint(ldexp(size, fraction_bits - exponent))
    scaled = (<int64_t>(exponent + bias) << fraction_bits) + scaled - (<int64_t>1 << fraction_bits)
    if scaled >= infinity:
        return False
    out[0] = sign | <uint16_t>scaled
    return True


cdef bint half_from_double(double value, uint16_t *out) noexcept nogil:
    return narrow(value, 10, 15, out)


cdef bint bfloat_from_double(double value, uint16_t *out) noexcept nogil:
    return narrow(value, 7, 127, out)


cdef float half_to_float(uint16_t bits) noexcept nogil:
    cdef uint32_t wide
    cdef float result
    cdef int exponent = (bits >> 10) & 31
    cdef int fraction = bits & 1023
    if exponent == 31:
        wide = (<uint32_t>(bits & 0x8000) << 16) | 0x7F800000u | (<uint32_t>fraction << 13)
        memcpy(&result, &wide, 4)
        return result
    if exponent == 0:
        result = ldexpf(<float>fraction, -24)
    else:
        result = ldexpf(<float>(1024 + fraction), exponent - 25)
    return -result if bits & 0x8000 else result


cdef float bfloat_to_float(uint16_t bits) noexcept nogil:
    cdef uint32_t wide = <uint32_t>bits << 16
    cdef float result
    memcpy(&result, &wide, 4)
    return result


# floor(e * log10(2)), floor(e * log10(2) + log10(3/4)), floor(e * log2(10)), each exact over the exponents of a double.
cdef inline int floor_log10_pow2(int e) noexcept nogil:
    return (e * 1262611) >> 22


cdef inline int floor_log10_three_quarters_pow2(int e) noexcept nogil:
    return (e * 1262611 - 524031) >> 22


cdef inline int floor_log2_pow10(int e) noexcept nogil:
    return (e * 1741647) >> 19


cdef inline uint64_t scale_short(uint64_t g, uint32_t c) noexcept nogil:
    """Upper 32 bits of the 96-bit product, rounded to odd."""
    cdef uint128_t product = <uint128_t>g * c
    return <uint64_t>(product >> 64) | (<uint32_t>(product >> 32) > 1)


cdef inline uint64_t scale_wide(uint64_t high, uint64_t low, uint64_t c) noexcept nogil:
    """Upper 64 bits of the 192-bit product, rounded to odd."""
    cdef uint128_t carry = (<uint128_t>low * c) >> 64
    cdef uint128_t product = <uint128_t>high * c + carry
    return <uint64_t>(product >> 64) | (<uint64_t>product > 1)


cdef uint64_t shortest(uint64_t c, int q, bint narrow_below, bint is_double, int *power) noexcept nogil:
    """Digits d and power with d * 10^power the shortest decimal of c * 2^q; `narrow_below`: c is a power of two whose
    lower neighbour is only half as far away as the upper one."""
    cdef uint64_t odd = c & 1
    cdef int k = floor_log10_three_quarters_pow2(q) if narrow_below else floor_log10_pow2(q)
    cdef int h = q + floor_log2_pow10(-k) + 1
    cdef uint64_t middle = 4 * c << h
    cdef uint64_t below = 4 * c - (1 if narrow_below else 2) << h
    cdef uint64_t above = 4 * c + 2 << h
    cdef int index = -k - LEAST_POWER
    cdef uint64_t lower, centre, upper, s, tens
    cdef bint low_fits, high_fits
    if is_double:
        lower = scale_wide(POWERS_HIGH[index], POWERS_LOW[index], below)
        centre = scale_wide(POWERS_HIGH[index], POWERS_LOW[index], middle)
        upper = scale_wide(POWERS_HIGH[index], POWERS_LOW[index], above)
    else:
        lower = scale_short(POWERS_SHORT[index], <uint32_t>below)
        centre = scale_short(POWERS_SHORT[index], <uint32_t>middle)
        upper = scale_short(POWERS_SHORT[index], <uint32_t>above)
    lower += odd
    upper -= odd
    s = centre >> 2
    if s >= 10:
        tens = s // 10
        low_fits = lower <= 40 * tens
        high_fits = 40 * tens + 40 <= upper
        if low_fits != high_fits:
            power[0] = k + 1
            return tens + high_fits
    power[0] = k
    low_fits = lower <= 4 * s
    high_fits = 4 * s + 4 <= upper
    if low_fits != high_fits:
        return s + high_fits
    # Both or neither fit: the closer one, and the even one of two equally close.
    if centre == 4 * s + 2:
        return s + (s & 1)
    return s + 1 if centre > 4 * s + 2 else s


cdef char *write_decimal(char *at, uint64_t digits, int power) noexcept nogil:
    """digits * 10^power as Python's repr lays numbers out: positional for exponents from -4 to 15, else scientific."""
    cdef char[24] text
    cdef int n = 0
    cdef int point, i
    while digits % 10 == 0:
        digits //= 10
        power += 1
    while digits:
        n += 1
        text[24 - n] = <char>(48 + digits % 10)
        digits //= 10
    cdef const char *first = text + 24 - n
    point = n + power
    if 0 < point <= 16:
        if point >= n:
            memcpy(at, first, n)
            memset(at + n, 48, point - n)
            memcpy(at + point, b".0", 2)
            return at + point + 2
        memcpy(at, first, point)
        at[point] = 46
        memcpy(at + point + 1, first + point, n - point)
        return at + n + 1
    if -4 < point <= 0:
        memcpy(at, b"0.", 2)
        memset(at + 2, 48, -point)
        memcpy(at + 2 - point, first, n)
        return at + 2 - point + n
    at[0] = first[0]
    at += 1
    if n > 1:
        at[0] = 46
        memcpy(at + 1, first + 1, n - 1)
        at += n
    at[0] = 101
    at += 1
    i = point - 1
    if i < 0:
        at[0] = 45
        at += 1
        i = -i
    n = 1 if i < 10 else 2 if i < 100 else 3
    point = n
    while point:
        point -= 1
        at[point] = <char>(48 + i % 10)
        i //= 10
    return at + n


cdef char *write_special(char *at, bint negative, bint nan) noexcept nogil:
    if nan:
        memcpy(at, b'"NaN"', 5)
        return at + 5
    if negative:
        memcpy(at, b'"-Infinity"', 11)
        return at + 11
    memcpy(at, b'"Infinity"', 10)
    return at + 10


cdef char *write_float(char *at, float value) noexcept nogil:
    cdef uint32_t bits
    cdef uint32_t fraction, exponent
    cdef int power
    cdef uint64_t digits
    memcpy(&bits, &value, 4)
    fraction = bits & 0x7FFFFF
    exponent = (bits >> 23) & 0xFF
    if exponent == 0xFF:
        return write_special(at, bits >> 31, fraction != 0)
    if bits >> 31:
        at[0] = 45
        at += 1
    if exponent == 0 and fraction == 0:
        memcpy(at, b"0.0", 3)
        return at + 3
    if exponent == 0:
        digits = shortest(fraction, -149, False, False, &power)
    else:
        digits = shortest(fraction | 0x800000u, <int>exponent - 150, fraction == 0 and exponent > 1, False, &power)
    return write_decimal(at, digits, power)


cdef char *write_double(char *at, double value) noexcept nogil:
    cdef uint64_t bits
    cdef uint64_t fraction
    cdef uint32_t exponent
    cdef int power
    cdef uint64_t digits
    memcpy(&bits, &value, 8)
    fraction = bits & 0xFFFFFFFFFFFFFull
    exponent = <uint32_t>(bits >> 52) & 0x7FF
    if exponent == 0x7FF:
        return write_special(at, bits >> 63, fraction != 0)
    if bits >> 63:
        at[0] = 45
        at += 1
    if exponent == 0 and fraction == 0:
        memcpy(at, b"0.0", 3)
        return at + 3
    if exponent == 0:
        digits = shortest(fraction, -1074, False, True, &power)
    else:
        fraction |= 1ull << 52
        digits = shortest(fraction, <int>exponent - 1075, fraction == 1ull << 52 and exponent > 1, True, &power)
    return write_decimal(at, digits, power)
