"""The encoder of header fields: see hpack.pxd."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_head, tg_buffer_reserve, tg_buffer_size, tg_buffer_tail,
)
from lb.http.http2.hpack_runs cimport RUN_FIELDS, RUN_WIRE, hpack_run, runs_find, runs_free, runs_keep
from lb.http.http2.block cimport block_field, block_next
from lb.http.http2.nghttp2 cimport NGHTTP2_NV_FLAG_NO_COPY_NAME, NGHTTP2_NV_FLAG_NO_INDEX, nghttp2_nv

cdef enum:
    STATIC = 61                       # entries of the static table (RFC 7541 appendix A)
    OVERHEAD = 32                     # of an entry (section 4.1)
    PLACES = 128                      # HPACK_TABLE / OVERHEAD: entries at most
    BUCKETS = 64
    SETS = 8                          # of the hashes of fields that came lately
    WAYS = 8                          # in each: where fields that always come together share a set, it holds them
    LARGEST = 1024                    # bytes of a field that is kept: a larger one would drive out too many
    LONGEST_NAME = 256                # that is put into lower case here; a longer one is never kept
    INTEGER = 6                       # bytes of a number, at most
    # Section 6: the first byte's pattern, and the bits that are left for a number.
    INDEXED = 0x80
    INDEXED_BITS = 7
    KEPT = 0x40
    KEPT_BITS = 6
    NOT_KEPT = 0x00
    NEVER_KEPT = 0x10
    LITERAL_BITS = 4
    RESIZED = 0x20
    RESIZED_BITS = 5
    LENGTH_BITS = 7
    # In the static table.
    AUTHORIZATION = 23
    COOKIE = 32
    PROXY_AUTHORIZATION = 49
    SET_COOKIE = 55
    # `encode_field`
    LITERAL = 0
    INDEX = 1                         # written was an index alone
    LENGTHS = 29                      # of names, and one more: the longest have 27

ctypedef struct hpack_entry:
    char *bytes                       # name and value
    uint32_t hash
    uint16_t name_size
    uint16_t value_size
    uint8_t older                     # the next one of its bucket, counted from 1; 0 = none

ctypedef struct hpack_table:
    hpack_entry places[128]           # a ring: entry number n is at n % PLACES
    uint32_t added                    # entries since the beginning
    uint32_t count                    # that are left
    uint32_t size                     # their bytes, as section 4.1 counts
    uint64_t age                      # counted on with every entry that comes or goes; 0 = it has had none
    uint8_t buckets[64]               # the newest entry of each, as `older`
    uint32_t seen[SETS][WAYS]
    uint8_t oldest[SETS]              # of each set, to be overwritten

ctypedef struct static_name:
    const char *name
    uint8_t index

# The names of the static table by length; `FIRST` has where a length begins.
cdef static_name NAMES[52]
cdef uint8_t FIRST[LENGTHS]

_NAMES = {
    b":authority": 1, b":method": 2, b":path": 4, b":scheme": 6, b":status": 8, b"accept-charset": 15,
    b"accept-encoding": 16, b"accept-language": 17, b"accept-ranges": 18, b"accept": 19,
    b"access-control-allow-origin": 20, b"age": 21, b"allow": 22, b"authorization": 23, b"cache-control": 24,
    b"content-disposition": 25, b"content-encoding": 26, b"content-language": 27, b"content-length": 28,
    b"content-location": 29, b"content-range": 30, b"content-type": 31, b"cookie": 32, b"date": 33, b"etag": 34,
    b"expect": 35, b"expires": 36, b"from": 37, b"host": 38, b"if-match": 39, b"if-modified-since": 40,
    b"if-none-match": 41, b"if-range": 42, b"if-unmodified-since": 43, b"last-modified": 44, b"link": 45,
    b"location": 46, b"max-forwards": 47, b"proxy-authenticate": 48, b"proxy-authorization": 49, b"range": 50,
    b"referer": 51, b"refresh": 52, b"retry-after": 53, b"server": 54, b"set-cookie": 55,
    b"strict-transport-security": 56, b"transfer-encoding": 57, b"user-agent": 58, b"vary": 59, b"via": 60,
    b"www-authenticate": 61,
}
_BY_LENGTH = sorted(_NAMES, key=len)      # kept: NAMES points into these


def _fill() -> None:
    cdef int i, length
    cdef bytes name
    for i, name in enumerate(_BY_LENGTH):
        NAMES[i].name = name
        NAMES[i].index = _NAMES[name]
        for length in range(len(name) + 1, LENGTHS):
            FIRST[length] = <uint8_t>(i + 1)


_fill()


cdef int name_index(const char *name, size_t size) noexcept:
    """Of the static table; 0 = it does not have the name."""
    cdef int i, end
    if size + 1 >= LENGTHS:
        return 0
    end = FIRST[size + 1]
    for i in range(FIRST[size], end):
        if NAMES[i].name[0] == name[0] and memcmp(NAMES[i].name, name, size) == 0:
            return NAMES[i].index
    return 0


cdef inline int whole_index(const char *name, size_t size, const char *value, size_t value_size) noexcept:
    """Of a pseudo-header field that the static table has with its value; 0 = it has not."""
    if size == 7 and name[1] == c"m":
        if value_size == 3 and memcmp(value, b"GET", 3) == 0:
            return 2
        return 3 if value_size == 4 and memcmp(value, b"POST", 4) == 0 else 0
    if size == 7 and name[2] == c"c":
        if value_size == 4 and memcmp(value, b"http", 4) == 0:
            return 6
        return 7 if value_size == 5 and memcmp(value, b"https", 5) == 0 else 0
    if size == 7 and value_size == 3:
        return status_index(value)
    if size == 5 and value_size == 1 and value[0] == c"/":
        return 4
    return 0


cdef inline int status_index(const char *value) noexcept:
    if memcmp(value, b"200", 3) == 0:
        return 8
    if memcmp(value, b"204", 3) == 0:
        return 9
    if memcmp(value, b"206", 3) == 0:
        return 10
    if memcmp(value, b"304", 3) == 0:
        return 11
    if memcmp(value, b"400", 3) == 0:
        return 12
    if memcmp(value, b"404", 3) == 0:
        return 13
    return 14 if memcmp(value, b"500", 3) == 0 else 0


cdef inline uint64_t mix(uint64_t hashed, const char *bytes, size_t size) noexcept:
    cdef uint64_t word
    cdef uint32_t low, high
    while size >= 8:
        memcpy(&word, bytes, 8)
        hashed = (hashed ^ word) * 0x9E3779B97F4A7C15U
        hashed ^= hashed >> 32
        bytes += 8
        size -= 8
    if size >= 4:
        memcpy(&low, bytes, 4)
        memcpy(&high, bytes + size - 4, 4)
        word = <uint64_t>high << 32 | low
    elif size:
        word = <uint64_t><uint8_t>bytes[0] | <uint64_t><uint8_t>bytes[size >> 1] << 8
        word |= <uint64_t><uint8_t>bytes[size - 1] << 16
    else:
        return hashed
    hashed = (hashed ^ word) * 0x9E3779B97F4A7C15U
    return hashed ^ hashed >> 32


cdef inline char *put_integer(char *at, uint8_t pattern, int bits, size_t number) noexcept:
    """Section 5.1."""
    cdef size_t most = (<size_t>1 << bits) - 1
    if number < most:
        at[0] = <char>(pattern | number)
        return at + 1
    at[0] = <char>(pattern | most)
    at += 1
    number -= most
    while number >= 128:
        at[0] = <char>(number & 127 | 128)
        at += 1
        number >>= 7
    at[0] = <char>number
    return at + 1


cdef inline char *put_string(char *at, const char *bytes, size_t size) noexcept:
    """Section 5.2, without Huffman's code."""
    at = put_integer(at, 0, LENGTH_BITS, size)
    memcpy(at, bytes, size)
    return at + size


cdef void evict(hpack_table *table, uint32_t limit) noexcept:
    """Drops the oldest entries until the rest has `limit` bytes at most."""
    cdef hpack_entry *entry
    cdef uint32_t place
    cdef uint8_t *link
    while table.size > limit:
        place = (table.added - table.count) % PLACES
        entry = &table.places[place]
        link = &table.buckets[entry.hash % BUCKETS]
        while link[0] != place + 1:           # it is its bucket's last
            link = &table.places[link[0] - 1].older
        link[0] = 0
        table.size -= OVERHEAD + entry.name_size + entry.value_size
        table.count -= 1
        table.age += 1
        free(entry.bytes)
        entry.bytes = NULL


cdef int find(const hpack_table *table, uint32_t hashed, const char *name, size_t size, const char *value,
              size_t value_size) noexcept:
    """The index of the field in the dynamic table; 0 = it is not there."""
    cdef uint32_t place = table.buckets[hashed % BUCKETS]
    cdef const hpack_entry *entry
    while place:
        entry = &table.places[place - 1]
        if (entry.hash == hashed and entry.name_size == size and entry.value_size == value_size
                and memcmp(entry.bytes, name, size) == 0 and memcmp(entry.bytes + size, value, value_size) == 0):
            return STATIC + 1 + <int>((table.added - place) % PLACES)
        place = entry.older
    return 0


cdef bint keep(hpack_table *table, uint32_t limit, uint32_t hashed, const char *name, size_t size, const char *value,
               size_t value_size) noexcept:
    """Adds the field as the newest entry. False: it cannot be kept."""
    cdef uint32_t bytes = <uint32_t>(OVERHEAD + size + value_size)
    cdef hpack_entry *entry
    cdef char *copy
    if bytes > limit:
        return False
    copy = <char *>malloc(size + value_size + 1)
    if copy == NULL:
        return False
    evict(table, limit - bytes)
    memcpy(copy, name, size)
    memcpy(copy + size, value, value_size)
    entry = &table.places[table.added % PLACES]
    entry.bytes = copy
    entry.hash = hashed
    entry.name_size = <uint16_t>size
    entry.value_size = <uint16_t>value_size
    entry.older = table.buckets[hashed % BUCKETS]
    table.buckets[hashed % BUCKETS] = <uint8_t>(table.added % PLACES + 1)
    table.added += 1
    table.count += 1
    table.age += 1
    table.size += bytes
    return True


cdef inline bint seen_before(hpack_table *table, uint32_t hashed) noexcept:
    """Whether a field with this hash came lately; from now on it has."""
    cdef uint32_t which = hashed % SETS
    cdef uint32_t *hashes = table.seen[which]
    cdef int i
    for i in range(WAYS):
        if hashes[i] == hashed:
            return True
    hashes[table.oldest[which]] = hashed
    table.oldest[which] = (table.oldest[which] + 1) % WAYS
    return False


cdef inline const char *lower(char *into, const char *name, size_t size) noexcept:
    cdef size_t i
    for i in range(size):
        into[i] = name[i] | 32 if c"A" <= name[i] <= c"Z" else name[i]
    return into


cdef int encode_field(hpack_encoder *encoder, tg_buffer *out, const nghttp2_nv *field) noexcept:
    """LITERAL, INDEX, or -1: no memory."""
    cdef char lowered[LONGEST_NAME]
    cdef const char *name = <const char *>field.name
    cdef const char *value = <const char *>field.value
    cdef size_t size = field.namelen, value_size = field.valuelen
    cdef bint foldable = size <= LONGEST_NAME
    cdef hpack_table *table = <hpack_table *>encoder.table
    cdef uint8_t pattern = NOT_KEPT
    cdef int bits = LITERAL_BITS, index
    cdef uint32_t hashed
    cdef char *at
    if tg_buffer_reserve(out, size + value_size + 3 * INTEGER) < 0:
        return -1
    at = tg_buffer_tail(out)
    if not field.flags & NGHTTP2_NV_FLAG_NO_COPY_NAME and foldable:
        name = lower(lowered, name, size)
    if size and name[0] == c":":
        index = whole_index(name, size, value, value_size)
        if index:
            at[0] = <char>(INDEXED | index)
            out.end += 1
            return INDEX
    if field.flags & NGHTTP2_NV_FLAG_NO_INDEX:
        pattern = NEVER_KEPT
    elif table != NULL and foldable and size + value_size <= LARGEST:
        hashed = <uint32_t>mix(mix(size << 16 ^ value_size, name, size), value, value_size)
        index = find(table, hashed, name, size, value, value_size)
        if index:
            out.end += put_integer(at, INDEXED, INDEXED_BITS, <size_t>index) - at
            return INDEX
        if seen_before(table, hashed):
            pattern = KEPT
    index = name_index(name, size) if foldable else 0
    if index == AUTHORIZATION or index == PROXY_AUTHORIZATION or index == COOKIE or index == SET_COOKIE:
        pattern = NEVER_KEPT
    elif pattern == KEPT and keep(table, encoder.limit, hashed, name, size, value, value_size):
        bits = KEPT_BITS
    elif pattern == KEPT:
        pattern = NOT_KEPT
    at = put_integer(at, pattern, bits, <size_t>index)
    if index == 0:
        at = put_string(at, name, size)
        if not foldable:
            lower(at - size, name, size)
    at = put_string(at, value, value_size)
    out.end = <size_t>(at - out.data)
    return LITERAL


cdef void hpack_init(hpack_encoder *encoder) noexcept:
    encoder.table = NULL
    encoder.limit = HPACK_TABLE
    encoder.least = HPACK_TABLE
    encoder.told = True
    encoder.runs.known = NULL
    encoder.runs.next = 0


cdef void hpack_free(hpack_encoder *encoder) noexcept:
    runs_free(&encoder.runs)
    if encoder.table != NULL:
        evict(<hpack_table *>encoder.table, 0)
        free(encoder.table)
        encoder.table = NULL


cdef void hpack_resize(hpack_encoder *encoder, uint32_t size) noexcept:
    encoder.limit = min(size, <uint32_t>HPACK_TABLE)
    encoder.least = min(encoder.least, encoder.limit)
    encoder.told = False
    if encoder.table != NULL:
        evict(<hpack_table *>encoder.table, encoder.limit)


cdef int hpack_encode(hpack_encoder *encoder, tg_buffer *out, const nghttp2_nv *fields, size_t count) noexcept:
    cdef size_t i
    cdef char *at
    if not encoder.told:
        # Section 4.2: the least size in between, then the one that holds.
        if tg_buffer_reserve(out, 2 * INTEGER) < 0:
            return -1
        at = tg_buffer_tail(out)
        if encoder.least < encoder.limit:
            at = put_integer(at, RESIZED, RESIZED_BITS, encoder.least)
        at = put_integer(at, RESIZED, RESIZED_BITS, encoder.limit)
        out.end = <size_t>(at - out.data)
        encoder.told = True
        encoder.least = encoder.limit
    if encoder.table == NULL:
        encoder.table = calloc(1, sizeof(hpack_table))     # without memory nothing is kept, which is as valid
    for i in range(count):
        if encode_field(encoder, out, &fields[i]) < 0:
            return -1
    return 0


cdef int hpack_encode_more(hpack_encoder *encoder, tg_buffer *out, const char *fields, size_t size) noexcept:
    cdef hpack_table *table = <hpack_table *>encoder.table
    cdef uint64_t age = table.age if table != NULL else 0
    cdef const hpack_run *run = runs_find(&encoder.runs, age, fields, size) if age else NULL
    cdef const char *at = fields
    cdef const char *end = fields + size
    cdef size_t begun = tg_buffer_size(out), whole = 0, wire = 0
    cdef bint indices = run == NULL and age > 0
    cdef block_field field
    cdef nghttp2_nv nv
    cdef int rc
    if run != NULL:
        if tg_buffer_append(out, run.wire, run.size) < 0:
            return -1
        at += tg_buffer_size(&run.fields)
    nv.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME
    while block_next(&at, end, &field):
        nv.name = <uint8_t *>field.name
        nv.namelen = field.name_size
        nv.value = <uint8_t *>field.value
        nv.valuelen = field.value_size
        rc = encode_field(encoder, out, &nv)
        if rc < 0:
            return -1
        indices = indices and rc == INDEX and at - fields <= RUN_FIELDS and tg_buffer_size(out) - begun <= RUN_WIRE
        if indices:
            whole = <size_t>(at - fields)
            wire = tg_buffer_size(out) - begun
    if whole and table.age == age:
        runs_keep(&encoder.runs, age, fields, whole, tg_buffer_head(out) + begun, <uint32_t>wire)
    return 0
