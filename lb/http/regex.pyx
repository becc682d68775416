"""Regular expressions by RE2: see regex.pxd for the contract and docs/adr/regular-expressions.md for the choice.

The only module in C++. What it shows to others is plain C.
"""

cdef extern from *:
    """
    #include <re2/re2.h>
    #include <re2/stringpiece.h>
    #include <cstdint>
    #include <cstdio>
    #include <map>
    #include <new>
    #include <string>

    /* RE2's budget for one pattern: its program, and the states that its automaton keeps. A pattern that does not fit
       is refused; an automaton that runs full goes on without a cache, slower and still linear. */
    static const int64_t TG_REGEX_MEMORY = 1 << 20;
    static const int TG_REGEX_GROUPS = 10;

    static void *tg_regex_new(const char *pattern, size_t n, int fold, char *why, size_t room) {
        re2::RE2::Options options;
        options.set_log_errors(false);
        options.set_encoding(re2::RE2::Options::EncodingLatin1); /* what is matched is bytes */
        options.set_max_mem(TG_REGEX_MEMORY);
        options.set_case_sensitive(!fold);
        re2::RE2 *made = new (std::nothrow) re2::RE2(re2::StringPiece(pattern, n), options);
        if (made == NULL) {
            snprintf(why, room, "out of memory");
            return NULL;
        }
        if (!made->ok()) {
            snprintf(why, room, "%s", made->error().c_str());
            delete made;
            return NULL;
        }
        return made;
    }

    static int tg_regex_groups(const void *engine) {
        return static_cast<const re2::RE2 *>(engine)->NumberOfCapturingGroups();
    }

    static int tg_regex_search(const void *engine, const char *text, size_t n) {
        const re2::RE2 *regex = static_cast<const re2::RE2 *>(engine);
        return regex->Match(re2::StringPiece(text, n), 0, n, re2::RE2::UNANCHORED, NULL, 0);
    }

    /* bounds: start and end of each group; (size_t)-1 for one that took no part. */
    static int tg_regex_find(const void *engine, const char *text, size_t n, size_t start, size_t *bounds) {
        const re2::RE2 *regex = static_cast<const re2::RE2 *>(engine);
        re2::StringPiece parts[TG_REGEX_GROUPS];
        int count = 1 + regex->NumberOfCapturingGroups();
        if (count > TG_REGEX_GROUPS)
            count = TG_REGEX_GROUPS;
        if (!regex->Match(re2::StringPiece(text, n), start, n, re2::RE2::UNANCHORED, parts, count))
            return 0;
        for (int i = 0; i < TG_REGEX_GROUPS; i++) {
            bool set = i < count && parts[i].data() != NULL;
            bounds[2 * i] = set ? (size_t)(parts[i].data() - text) : (size_t)-1;
            bounds[2 * i + 1] = set ? bounds[2 * i] + parts[i].size() : (size_t)-1;
        }
        return 1;
    }

    /* The number of the group called `name`; 0: there is none. */
    static int tg_regex_named(const void *engine, const char *name, size_t n) {
        const std::map<std::string, int> &names = static_cast<const re2::RE2 *>(engine)->NamedCapturingGroups();
        std::map<std::string, int>::const_iterator found = names.find(std::string(name, n));
        return found == names.end() ? 0 : found->second;
    }

    static void tg_regex_free(void *engine) {
        delete static_cast<re2::RE2 *>(engine);
    }
    """
    void *tg_regex_new(const char *pattern, size_t n, int fold, char *why, size_t room) noexcept nogil
    int tg_regex_groups(const void *engine) noexcept nogil
    int tg_regex_search(const void *engine, const char *text, size_t n) noexcept nogil
    int tg_regex_find(const void *engine, const char *text, size_t n, size_t start, size_t *bounds) noexcept nogil
    int tg_regex_named(const void *engine, const char *name, size_t n) except +
    void tg_regex_free(void *engine) noexcept nogil

cdef const char *EMPTY = b""


cdef class Regex:
    """`pattern` in RE2's syntax, for bytes; `fold` ignores the case of ASCII letters.

    Raises ValueError with RE2's reason for a pattern that it does not take (no look-around, no back-references).
    """

    def __init__(self, bytes pattern not None, bint fold=False):
        cdef char why[256]
        if self.engine != NULL:
            raise ValueError("a Regex is made once")
        why[0] = 0
        self.engine = tg_regex_new(<const char *>pattern, <size_t>len(pattern), fold, why, sizeof(why))
        if self.engine == NULL:
            raise ValueError((<const char *>why).decode("latin-1"))
        self.groups = tg_regex_groups(self.engine)

    def __dealloc__(self):
        if self.engine != NULL:
            tg_regex_free(self.engine)

    cdef bint search(self, const char *text, size_t n) noexcept nogil:
        if text == NULL:
            text = EMPTY
        return tg_regex_search(self.engine, text, n) != 0

    cdef bint find(self, const char *text, size_t n, size_t start, tg_piece *pieces) noexcept nogil:
        cdef size_t bounds[2 * REGEX_GROUPS]
        cdef int i
        if text == NULL:
            text = EMPTY
        if not tg_regex_find(self.engine, text, n, start, bounds):
            return False
        for i in range(REGEX_GROUPS):
            pieces[i].set = bounds[2 * i] != <size_t>-1
            pieces[i].start = bounds[2 * i] if pieces[i].set else 0
            pieces[i].end = bounds[2 * i + 1] if pieces[i].set else 0
        return True

    def matches(self, bytes text not None) -> bool:
        """Whether the pattern is found in `text`; where time does not matter."""
        return bool(self.search(<const char *>text, <size_t>len(text)))

    def spans(self, bytes text not None) -> list[tuple[int, int] | None] | None:
        """Start and end of the first match in `text` and of each of its groups up to \\9, None for one that took no
        part; None: there is no match. As `matches`."""
        cdef tg_piece pieces[REGEX_GROUPS]
        if not self.find(<const char *>text, <size_t>len(text), 0, pieces):
            return None
        count = min(self.groups + 1, <int>REGEX_GROUPS)
        return [(pieces[i].start, pieces[i].end) if pieces[i].set else None for i in range(count)]

    def group(self, str name not None) -> int:
        """The number of the group `(?P<name>...)`; 0: there is none."""
        cdef bytes spelled = name.encode("latin-1", "replace")
        return tg_regex_named(self.engine, <const char *>spelled, <size_t>len(spelled))
