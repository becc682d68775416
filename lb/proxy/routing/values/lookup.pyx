"""A map from texts to texts: see lookup.pxd.

The block: magic, kind, number of entries, number of slots, the shortest and the longest key, a set of lengths, then the
slots (32-bit numbers: where an entry begins, or 0) and the entries (hash, length of key and value, key, value). Keys of
a suffix map lie backwards, so that one pass over a text gives the hashes of all its ends.

A map of networks has ranges of addresses in place of the slots: networks lie within each other, and are cut into
ranges of which each has the value of its narrowest network. They are the numbers of ranges of IPv4 and of IPv6, and of
the bits of an index of IPv4; that index, by the first bits of an address: the range that they begin in, and behind the
last of them the last range; of IPv4 where each range begins, and where its entry does, or 0; the same of IPv6, where an
address has four numbers.
"""

import struct
from bisect import bisect_right

from lb.config.network import parse_block, ranges

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp
from lb.http.regex cimport Regex
from lb.net.ip cimport AF_INET, ip_parse, tg_ip
from lb.proxy.routing.textmap cimport TEXT_HASH_START, text_hash

cdef dict KINDS = {
    "exact": LOOK_EXACT, "prefix": LOOK_PREFIX, "suffix": LOOK_SUFFIX, "domain": LOOK_DOMAIN, "regex": LOOK_REGEX,
    "network": LOOK_NETWORK,
}

cdef enum:
    MAGIC = 0x54474C4B
    LENGTHS_ROOM = 132                # bytes: a bit for each length from 0 to LOOK_LONGEST
    INDEX_BITS = 16                   # of an IPv4 address, at most
    EXPRESSIONS = 256                 # tried one after another

HEAD = struct.Struct("<IIIIIIII")     # magic, kind, fold, entries, slots, shortest, longest, length of the entries


cdef struct tg_entry:
    uint32_t hash
    uint16_t key
    uint16_t value


class EntryError(ValueError):
    """An entry that a map cannot have."""

    key: bytes

    def __init__(self, key: bytes, said: str) -> None:
        super().__init__(said)
        self.key = key


def build(entries: dict[bytes, bytes], kind: str, fold: bool = False) -> bytes:
    """The block of a map of `kind` (exact, prefix, suffix, domain, regex or network). Raises EntryError for a key or
    value that is too long, for an expression that RE2 does not take, and for a key that is no network, or the same as
    another one; ValueError for too many expressions."""
    cdef bytearray slots, text
    cdef uint32_t *places
    cdef uint32_t mask, at, hash
    cdef uint32_t count = 4
    cdef bytes raw
    cdef size_t longest = 0, shortest = LOOK_LONGEST
    lengths = bytearray(LENGTHS_ROOM)
    text = bytearray(8)                   # so that no entry is at 0
    networks = {}
    if kind == "regex" and len(entries) > EXPRESSIONS:
        raise ValueError(
            f"has {len(entries)} expressions, which are tried one after another; {EXPRESSIONS} are the most")
    while count < 2 * len(entries):
        count *= 2
    slots = bytearray(count * 4)
    places = <uint32_t *><char *>slots
    mask = count - 1
    for key, value in entries.items():
        if len(key) > LOOK_LONGEST or len(value) > 4096:
            raise EntryError(key, f"{shown(key)}: a key has at most {LOOK_LONGEST} bytes, a value 4096")
        if kind == "regex":
            try:
                Regex(key)
            except ValueError as error:
                raise EntryError(key, f"{shown(key)} is not a regular expression: {error}") from None
        raw = key[::-1] if kind == "suffix" else key
        hash = 0
        if kind == "network":
            try:
                network = parse_block(key.decode("utf-8", "replace"))
            except ValueError as error:
                raise EntryError(key, str(error)) from None
            if networks.setdefault(network, len(text)) != len(text):
                raise EntryError(key, f"{shown(key)} is there twice")
        else:
            hash = fold_hash(text_hash(TEXT_HASH_START, <const char *>raw, <size_t>len(raw)))
            at = hash & mask
            while places[at]:
                at = (at + 1) & mask
            places[at] = <uint32_t>len(text)
        text += struct.pack("<IHH", hash, len(raw), len(value)) + raw + value
        text += bytes(3 - (len(text) + 3) % 4)
        lengths[len(raw) >> 3] |= 1 << (len(raw) & 7)
        longest, shortest = max(longest, <size_t>len(raw)), min(shortest, <size_t>len(raw))
    if kind == "network":
        slots = bytearray(ranges_of(networks))
        count = <uint32_t>(len(slots) // 4)
    head = HEAD.pack(MAGIC, KINDS[kind], fold or kind == "domain", len(entries), count, shortest, longest, len(text))
    return head + bytes(lengths) + bytes(slots) + bytes(text)


cdef str shown(bytes key):
    return repr(key[:64].decode("utf-8", "replace"))


cdef bytes ranges_of(dict networks):
    """The ranges of networks, by where the entry of each lies."""
    starts4, values4 = ranges(networks, 32)
    starts6, values6 = ranges(networks, 128)
    bits = min(max(len(starts4).bit_length(), 1), INDEX_BITS)
    index = [bisect_right(starts4, first << (32 - bits)) - 1 for first in range(1 << bits)]
    words6 = [start >> shift & 0xFFFFFFFF for start in starts6 for shift in (96, 64, 32, 0)]
    words = [len(starts4), len(starts6), bits, *index, len(starts4) - 1, *starts4, *values4, *words6, *values6]
    return struct.pack(f"<{len(words)}I", *words)


cdef inline uint32_t fold_hash(uint64_t hash) noexcept nogil:
    return <uint32_t>(hash ^ (hash >> 32))


cdef class Lookup:
    """The map of `block`, which `build` has made. Raises ValueError for another one."""

    def __init__(self, block: bytes) -> None:
        cdef size_t head = <size_t>HEAD.size, begin = head + LENGTHS_ROOM, count
        cdef const char *data = <const char *>block
        if len(block) < <Py_ssize_t>begin:
            raise ValueError("not a map's block")
        magic, kind, fold, size, slots, shortest, longest, length = HEAD.unpack_from(block)
        if magic != MAGIC or len(block) != <Py_ssize_t>(begin + slots * 4 + length):
            raise ValueError("not a map's block")
        self.block = block
        self.how = kind
        self.fold = fold
        self.size = size
        self.shortest, self.longest = shortest, longest
        self.mask = slots - 1
        self.lengths = <const unsigned char *>data + head
        self.slots = <const uint32_t *>(data + begin)
        count = slots
        self.text = data + begin + count * 4
        if kind == LOOK_REGEX:
            found = sorted(at for at in struct.unpack_from(f"<{slots}I", block, begin) if at)
            entries = [self.entry(at) for at in found]
            self.regexes = tuple([Regex(key, self.fold) for key, _ in entries])
            self.answers = tuple([value for _, value in entries])

    cdef tuple entry(self, size_t at):
        cdef const tg_entry *entry = <const tg_entry *>(self.text + at)
        cdef const char *key = self.text + at + sizeof(tg_entry)
        return key[:entry.key], (key + entry.key)[:entry.value]

    def get(self, text: bytes) -> bytes | None:
        """The value of `text`, or None."""
        cdef const char *value = NULL
        cdef size_t n = 0
        if not self.find(<const char *>text, <size_t>len(text), &value, &n):
            return None
        return value[:n]

    cdef bint find(self, const char *text, size_t n, const char **value, size_t *length) noexcept:
        cdef char folded[LOOK_LONGEST]
        cdef size_t i, m
        cdef bint found = False
        cdef uint64_t hash = TEXT_HASH_START
        if self.how == LOOK_REGEX:
            return search(self, text, n, value, length)
        if self.size == 0:
            return False
        if self.how == LOOK_NETWORK:
            return find_address(self, text, n, value, length)
        if self.how == LOOK_EXACT or self.how == LOOK_DOMAIN:
            if n > LOOK_LONGEST:
                return False
            m = n
        else:
            m = min(n, <size_t>self.longest)
        if self.how == LOOK_SUFFIX:
            for i in range(m):
                folded[i] = text[n - 1 - i]
            text = folded
        if self.fold:
            for i in range(m):
                folded[i] = text[i] + 32 if 65 <= text[i] <= 90 else text[i]
            text = folded
        if self.how == LOOK_EXACT:
            return probe(self, text_hash(hash, text, m), text, m, value, length)
        if self.how == LOOK_DOMAIN:
            return find_domain(self, text, m, value, length)
        # Longer keys come later and replace shorter ones.
        if self.shortest == 0:
            found = probe(self, hash, text, 0, value, length)
        for i in range(m):
            hash = text_hash(hash, text + i, 1)
            if self.lengths[(i + 1) >> 3] >> ((i + 1) & 7) & 1 and probe(self, hash, text, i + 1, value, length):
                found = True
        return found


cdef bint find_address(Lookup self, const char *text, size_t n, const char **value, size_t *length) noexcept:
    """The narrowest network that has the address."""
    cdef tg_ip ip
    cdef uint32_t wanted[4]
    cdef const uint32_t *starts
    cdef const tg_entry *entry
    cdef size_t low = 0, middle, high, i, words = 1, bits = self.slots[2]
    cdef size_t count = self.slots[0], indices = (<size_t>1 << bits) + 1
    cdef const uint32_t *index = self.slots + 3
    if ip_parse(&ip, text, n) < 0:
        return False
    starts = index + indices
    if ip.family != AF_INET:
        starts += 2 * count
        count = self.slots[1]
        words = 4
    for i in range(words):
        wanted[i] = ((<uint32_t>ip.octets[4 * i] << 24) | (<uint32_t>ip.octets[4 * i + 1] << 16)
                     | (<uint32_t>ip.octets[4 * i + 2] << 8) | <uint32_t>ip.octets[4 * i + 3])
    high = count
    if words == 1:
        low = index[wanted[0] >> (32 - bits)]
        high = index[(wanted[0] >> (32 - bits)) + 1] + 1
    while low + 1 < high:                     # the range `low` begins at or before it
        middle = (low + high) // 2
        i = 0
        while i + 1 < words and starts[middle * words + i] == wanted[i]:
            i += 1
        if starts[middle * words + i] <= wanted[i]:
            low = middle
        else:
            high = middle
    starts += words * count
    if starts[low] == 0:
        return False
    entry = <const tg_entry *>(self.text + starts[low])
    value[0] = self.text + starts[low] + sizeof(tg_entry) + entry.key
    length[0] = entry.value
    return True


cdef bint find_domain(Lookup self, const char *text, size_t n, const char **value, size_t *length) noexcept:
    """The name itself, or the nearest one that it is below: from the left, one label less each time."""
    cdef size_t i = 0
    if n and text[n - 1] == 46:
        n -= 1                                # absolute (RFC 3986 section 3.2.2)
    while i < n:
        if n - i <= self.longest and self.lengths[(n - i) >> 3] >> ((n - i) & 7) & 1 and probe(
                self, text_hash(TEXT_HASH_START, text + i, n - i), text + i, n - i, value, length):
            return True
        while i < n and text[i] != 46:
            i += 1
        i += 1
    return False


cdef inline bint probe(Lookup self, uint64_t wide, const char *text, size_t n, const char **value,
                       size_t *length) noexcept:
    cdef uint32_t hash = fold_hash(wide)
    cdef uint32_t at = hash & self.mask
    cdef const tg_entry *entry
    cdef const char *key
    while self.slots[at]:
        entry = <const tg_entry *>(self.text + self.slots[at])
        key = self.text + self.slots[at] + sizeof(tg_entry)
        if entry.hash == hash and entry.key == n and memcmp(key, text, n) == 0:
            value[0] = key + n
            length[0] = entry.value
            return True
        at = (at + 1) & self.mask
    return False


cdef bint search(Lookup self, const char *text, size_t n, const char **value, size_t *length) noexcept:
    cdef Py_ssize_t i
    cdef bytes answer
    for i in range(len(self.regexes)):
        if (<Regex>self.regexes[i]).search(text, n):
            answer = <bytes>self.answers[i]
            value[0] = <const char *>answer
            length[0] = <size_t>len(answer)
            return True
    return False
