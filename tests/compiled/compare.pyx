"""For tests: the comparison of two answers (lb.inference.compare) as Python sees it."""

from lb.inference.compare cimport compare_answers, tg_comparison, tg_tolerance


def compare(bytes first not None, bytes second not None, double absolute=1e-5, double relative=1e-3,
            bint nan_equal=True):
    """(result, [(name, what, count, different, absolute, relative, at, first, second)])."""
    cdef tg_tolerance tolerance
    cdef tg_comparison found
    cdef int i
    tolerance.absolute, tolerance.relative, tolerance.nan_equal = absolute, relative, nan_equal
    result = compare_answers(first, len(first), second, len(second), &tolerance, &found)
    outputs = []
    if result >= 0:
        for i in range(found.output_count):
            each = found.outputs[i]
            outputs.append((each.name.data[:each.name.size].decode(), each.what, each.count, each.different,
                            each.absolute, each.relative, each.at, each.first, each.second))
    return result, outputs
