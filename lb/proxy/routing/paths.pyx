"""The paths of one host's routes: see paths.pxd.

Exact paths and prefixes are found by hash, in one pass over the path: the hash of each prefix is that of the shorter
one carried on, and only at lengths that some prefix has is it looked up. Templates are grouped by shape (how many
segments, and which of them are names); for each shape the path's literal segments make one key to look up. So the cost
depends on how many lengths and shapes there are, not on how many routes. Regular expressions are tried one by one,
after all others.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy
from lb.http.regex cimport REGEX_GROUPS, Regex, tg_piece
from lb.proxy.routing.textmap cimport TEXT_ABSENT, TEXT_HASH_START, TextMap, text_hash

from lb.config.schema.routes.template import MAX_SEGMENTS as _MAX_SEGMENTS
from lb.config.schema.routes.template import Template

cdef enum:
    SEGMENTS = 64                     # lb.config.schema.routes.template.MAX_SEGMENTS
    KEY_ROOM = 4096                   # a path in the configuration has at most as many bytes

cdef uint32_t RANK_EXACT = 0xFFFFFFFFU

if _MAX_SEGMENTS != SEGMENTS:
    raise ImportError("lb.config.schema.routes.template has another MAX_SEGMENTS than lb.proxy.routing.paths")


cdef class PathIndex:
    """`patterns` are distinct pairs of a kind (of RoutePlan, but "model") and a text; a pattern's number is its place.

    Raises ValueError for a pattern that is none.
    """

    def __init__(self, list patterns):
        cdef int number
        if self.ranks != NULL:
            raise ValueError("a PathIndex is made once")
        cdef dict exact = {}
        cdef dict prefixes = {}
        cdef dict templates = {}
        shapes = {}
        regexes = []
        numbers = []
        self.any = -1
        self.ranks = <uint32_t *>malloc((<size_t>len(patterns) + 1) * sizeof(uint32_t))
        if self.ranks == NULL:
            raise MemoryError
        for number, (kind, text) in enumerate(patterns):
            self.ranks[number] = 0
            if kind == "exact":
                exact[text.encode()] = number
                self.ranks[number] = RANK_EXACT
            elif kind == "prefix":
                octets = text.encode()
                prefixes[octets] = number
                self.ranks[number] = <uint32_t>(2 * len(octets))
            elif kind == "template":
                template = Template.parse(text)
                # Two templates that differ in their names only are one pattern to a path: the caller has joined them.
                if template.key in templates:
                    raise ValueError(f"{text}: there is such a template already")
                templates[template.key] = number
                shapes[template.segments, template.tail, template.mask] = None
                self.ranks[number] = <uint32_t>(2 * template.literal + 1)
            elif kind == "regex":
                regexes.append(Regex(text.encode()))
                numbers.append(number)
            elif kind == "":
                self.any = number
            else:
                raise ValueError(f"{kind!r} is not a kind of path")
        self.exact = TextMap(exact)
        self.prefixes = TextMap(prefixes)
        self.templates = TextMap(templates)
        self.regexes = tuple(regexes)
        self.regex_count = len(regexes)
        self.simple = not (exact or prefixes or templates or regexes)
        self.regex_numbers = tuple(numbers)
        self.set_lengths(sorted({len(prefix) for prefix in prefixes}))
        self.set_shapes(list(shapes))
        self.hits = <int *>malloc(<size_t>(1 + self.length_count + self.shape_count) * sizeof(int))
        if self.hits == NULL:
            raise MemoryError

    cdef int set_lengths(self, list lengths) except -1:
        cdef int i
        self.lengths = <uint32_t *>malloc((<size_t>len(lengths) + 1) * sizeof(uint32_t))
        if self.lengths == NULL:
            raise MemoryError
        for i, length in enumerate(lengths):
            self.lengths[i] = length
        self.length_count = <int>len(lengths)
        return 0

    cdef int set_shapes(self, list shapes) except -1:
        cdef int i
        self.shapes = <tg_shape *>malloc((<size_t>len(shapes) + 1) * sizeof(tg_shape))
        if self.shapes == NULL:
            raise MemoryError
        for i, (segments, tail, mask) in enumerate(shapes):
            self.shapes[i].segments = segments
            self.shapes[i].tail = tail
            self.shapes[i].mask = mask
        self.shape_count = <int>len(shapes)
        return 0

    def __dealloc__(self):
        free(self.ranks)
        free(self.lengths)
        free(self.shapes)
        free(self.hits)

    cdef int find(self, const char *path, size_t n) noexcept:
        cdef uint64_t hash = TEXT_HASH_START
        cdef size_t at = 0
        cdef int i, number, count = 0
        cdef bint whole = n == 1 and path[0] == 42
        if whole:
            path = b"/"                       # the "*" of OPTIONS: what takes every path takes it
        for i in range(self.length_count):
            if self.lengths[i] > n:
                break
            hash = text_hash(hash, path + at, self.lengths[i] - at)
            at = self.lengths[i]
            number = self.prefixes.probe(hash, path, at)
            if number != TEXT_ABSENT:
                self.hits[count] = number     # longer ones come later, so they stand in order
                count += 1
        if self.shape_count:
            self.find_templates(path, n, &count)
        if self.exact.size and not whole:
            number = self.exact.probe(text_hash(hash, path + at, n - at), path, n)
            if number != TEXT_ABSENT:
                self.hits[count] = number
                count += 1
        return count

    cdef void find_templates(self, const char *path, size_t n, int *count) noexcept:
        cdef size_t starts[SEGMENTS + 1]      # of the first segments, and of what follows them
        cdef size_t ends[SEGMENTS + 1]
        cdef char key[KEY_ROOM]
        cdef const char *slash
        cdef tg_shape *shape
        cdef size_t at = 0, room
        cdef int segments = 0, i, s, number
        if n == 0 or path[0] != 47:
            return                            # the "*" of OPTIONS
        while at < n and segments <= SEGMENTS:
            starts[segments] = at + 1
            slash = <const char *>memchr(path + at + 1, 47, n - at - 1)
            at = n if slash == NULL else <size_t>(slash - path)
            ends[segments] = at
            segments += 1
        # `segments` is SEGMENTS + 1 for every path with more than SEGMENTS of them.
        for s in range(self.shape_count):
            shape = &self.shapes[s]
            if (segments <= shape.segments) if shape.tail else (segments != shape.segments):
                continue
            room = 0
            for i in range(shape.segments):
                if (shape.mask >> i) & 1:
                    if starts[i] == ends[i]:
                        break
                    if room + 2 > KEY_ROOM:
                        break
                    key[room] = 47
                    key[room + 1] = 0
                    room += 2
                else:
                    if room + 1 + ends[i] - starts[i] > KEY_ROOM:
                        break
                    key[room] = 47
                    memcpy(key + room + 1, path + starts[i], ends[i] - starts[i])
                    room += 1 + ends[i] - starts[i]
            else:
                if shape.tail:
                    if room + 2 > KEY_ROOM:
                        continue
                    key[room] = 47
                    key[room + 1] = 1
                    room += 2
                number = self.templates.find(key, room)
                if number != TEXT_ABSENT:
                    self.add_hit(number, count)

    cdef void add_hit(self, int number, int *count) noexcept:
        """Puts a hit where its rank belongs among those that are there."""
        cdef int i = count[0]
        while i > 0 and self.ranks[self.hits[i - 1]] > self.ranks[number]:
            self.hits[i] = self.hits[i - 1]
            i -= 1
        self.hits[i] = number
        count[0] += 1

    cdef bint regex_matches(self, Py_ssize_t i, const char *path, size_t n) noexcept:
        return (<Regex>self.regexes[i]).search(path, n)

    def lookup(self, bytes path not None):
        """Numbers of all patterns that match `path`, the most particular first; for tests and tools."""
        cdef Py_ssize_t i
        cdef int count = self.find(<const char *>path, <size_t>len(path))
        found = [self.hits[count - 1 - i] for i in range(count)]
        for i in range(len(self.regexes)):
            if self.regex_matches(i, <const char *>path, <size_t>len(path)):
                found.append(self.regex_numbers[i])
        if self.any >= 0:
            found.append(self.any)
        return found


cdef int template_pieces(const char *key, size_t key_length, const char *path, size_t n,
                         tg_piece *pieces) noexcept nogil:
    cdef size_t k, at = 0
    cdef int count = 0
    for k in range(key_length):
        if <unsigned char>key[k] > 1:
            at += 1
            continue
        if count == REGEX_GROUPS or at > n:
            return count
        pieces[count].set = True
        pieces[count].start = at
        if key[k] == 1:
            at = n
        else:
            while at < n and path[at] != 47:
                at += 1
        pieces[count].end = at
        count += 1
    return count
