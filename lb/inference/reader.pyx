"""Reading the JSON of a request, of any size, in steps.

A parser that builds a document takes memory and time for each value of the text, whoever sent it and whatever it says:
60 MB of empty arrays are 20 million Python objects. The reader goes over the text once, holds it against the grammar
(RFC 8259), and builds nothing. It keeps the members that the protocol knows, as they are written, with bounds on their
size and number; and it notes where the data of each tensor begins and ends.

Beyond the RFC, NaN, Infinity and -Infinity are values, as Python's json module writes them.
"""

cimport cython
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport PyBUF_READ
from cpython.object cimport PyTypeObject
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp
from lb.http.head_text cimport append_number
from lb.inference.datatypes cimport MAX_TENSORS
from lb.inference.decimals cimport NUMBER_MOST
from lb.inference.jsontext cimport utf8_sequence
from lb.net.buffer cimport tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.ending cimport tg_end_by

import orjson

from lb.inference import nonfinite
from lb.inference.errors import OipError

cdef enum:                            # what the grammar expects
    VALUE = 0
    VALUE_OR_END                      # behind [
    KEY
    KEY_OR_END                        # behind {
    COLON
    MORE_OR_END                       # behind a value
    STRING                            # more of a string
    NOTHING                           # behind the document

cdef enum:                            # ways of a value
    DESCEND = 0                       # the document, an array of tensors, a tensor: its members have their own
    SKIP
    KEEP
    NOTE                              # the data of a tensor
    COUNT

cdef enum:                            # members
    OTHER = 0
    ID
    PARAMETERS
    INPUTS
    OUTPUTS
    NAME
    DATATYPE
    SHAPE
    DATA

cdef enum:                            # problems
    CHARACTER = 1
    CUT_OFF
    BEHIND
    CONTROL
    NOT_UTF8
    ESCAPE
    SURROGATE
    NUMBER
    LONG_NUMBER
    DEPTH
    TOO_MANY
    TOO_LONG
    MEMORY

cdef enum:
    KEPT_MOST = 1 << 20               # bytes of what is kept
    NAMED_MOST = 64 * 1024            # of a generate request, whose texts are tensors
    VALUES_MOST = 8192                # values and members of what is kept

REFUSALS = {
    CHARACTER: "the request is not valid JSON: unexpected character at byte {at}",
    CUT_OFF: "the request is not valid JSON: it ends too early, at byte {at}",
    BEHIND: "the request is not valid JSON: more text behind it, at byte {at}",
    CONTROL: "the request is not valid JSON: a control character in a string, at byte {at}",
    NOT_UTF8: "the request is not valid JSON: bytes that are not UTF-8, at byte {at}",
    ESCAPE: "the request is not valid JSON: no such escape, at byte {at}",
    SURROGATE: "the request is not valid JSON: a string has half a surrogate pair, at byte {at}",
    NUMBER: "the request is not valid JSON: not a number, at byte {at}",
    LONG_NUMBER: f"the request has a number of more than {NUMBER_MOST} characters, at byte {{at}}",
    DEPTH: f"the request is not valid JSON: nested deeper than {DEPTH_MOST} arrays and objects, at byte {{at}}",
    TOO_MANY: "the request has more than {values} values beside the data of its tensors",
    TOO_LONG: "the request has more than {most} bytes beside the data of its tensors",
    MEMORY: "out of memory",
}


cdef inline bint is_space(unsigned char c) noexcept nogil:
    return c == 32 or c == 10 or c == 13 or c == 9


cdef inline bint is_digit(unsigned char c) noexcept nogil:
    return c'0' <= c <= c'9'


cdef inline bint is_hex(unsigned char c) noexcept nogil:
    return is_digit(c) or c'a' <= (c | 32) <= c'f'


cdef int is_hex4(const unsigned char *at, size_t left) noexcept nogil:
    return left >= 6 and is_hex(at[2]) and is_hex(at[3]) and is_hex(at[4]) and is_hex(at[5])


cdef inline uint32_t unit(const unsigned char *at) noexcept nogil:
    """What decides of the escape \\uXXXX at `at` whether it is half a surrogate pair: its first two digits."""
    cdef uint32_t high = at[2] - c'0' if at[2] <= c'9' else (at[2] | 32) - c'a' + 10
    return high << 4 | <uint32_t>(at[3] - c'0' if at[3] <= c'9' else (at[3] | 32) - c'a' + 10)


cdef inline size_t number_size(const unsigned char *at, size_t left) noexcept nogil:
    """Characters of the number at `at` (RFC 8259 section 6); 0 where there is none."""
    cdef size_t i = 0
    cdef size_t digits
    if i < left and at[i] == c'-':
        i += 1
    digits = i
    while i < left and is_digit(at[i]):
        i += 1
    if i == digits or (at[digits] == c'0' and i > digits + 1):
        return 0
    if i < left and at[i] == c'.':
        i += 1
        digits = i
        while i < left and is_digit(at[i]):
            i += 1
        if i == digits:
            return 0
    if i < left and (at[i] | 32) == c'e':
        i += 1
        if i < left and (at[i] == c'+' or at[i] == c'-'):
            i += 1
        digits = i
        while i < left and is_digit(at[i]):
            i += 1
        if i == digits:
            return 0
    return i


cdef size_t word_size(const unsigned char *at, size_t left) noexcept nogil:
    """Characters of the literal at `at`; 0 where there is none."""
    cdef unsigned char c = at[0]
    if c == c't' and left >= 4 and memcmp(at, b"true", 4) == 0:
        return 4
    if c == c'f' and left >= 5 and memcmp(at, b"false", 5) == 0:
        return 5
    if c == c'n' and left >= 4 and memcmp(at, b"null", 4) == 0:
        return 4
    if c == c'N' and left >= 3 and memcmp(at, b"NaN", 3) == 0:
        return 3
    if c == c'I' and left >= 8 and memcmp(at, b"Infinity", 8) == 0:
        return 8
    return 0


cdef inline bint same(const char *key, size_t size, const char *name, size_t n) noexcept nogil:
    return size == n and memcmp(key, name, n) == 0


cdef int member_of(const char *key, size_t size) noexcept nogil:
    if same(key, size, b"inputs", 6):
        return INPUTS
    if same(key, size, b"outputs", 7):
        return OUTPUTS
    if same(key, size, b"parameters", 10):
        return PARAMETERS
    if same(key, size, b"id", 2):
        return ID
    if same(key, size, b"name", 4):
        return NAME
    if same(key, size, b"datatype", 8):
        return DATATYPE
    if same(key, size, b"shape", 5):
        return SHAPE
    return DATA if same(key, size, b"data", 4) else OTHER


cdef enum:
    KEY_MOST = 60                     # characters of a known key, each of them escaped


cdef size_t unescaped(const unsigned char *key, size_t size, char *to) noexcept nogil:
    """A key of at most KEY_MOST characters without its escapes; 0 where it has one that no known key has."""
    cdef size_t i = 0
    cdef size_t n = 0
    while i < size:
        if key[i] != c'\\':
            to[n] = <char>key[i]
            i += 1
        elif key[i + 1] != c'u' or key[i + 2] != c'0' or key[i + 3] != c'0' or key[i + 4] > c'7':
            return 0
        else:
            to[n] = <char>((key[i + 4] - c'0') << 4
                           | (key[i + 5] - c'0' if key[i + 5] <= c'9' else (key[i + 5] | 32) - c'a' + 10))
            i += 6
        n += 1
    return n


@cython.final
@cython.freelist(8)
@cython.no_gc
cdef class Reader:
    cdef int refuse(self, int problem) noexcept nogil:
        if self.problem == 0:
            self.problem = problem
        return READ_REFUSED

    cdef int go_on(self, size_t bytes) noexcept nogil:
        cdef size_t stop = self.size if bytes >= self.size - self.at else self.at + bytes
        cdef unsigned char c
        while self.at < stop:
            if self.expects == STRING:
                if self.read_string(stop) < 0:
                    return READ_REFUSED
                continue
            c = self.text[self.at]
            if is_space(c):
                self.at += 1
                continue
            if self.expects == MORE_OR_END:
                if c == c',':
                    self.expects = KEY if self.closing[self.depth] == c'}' else VALUE
                    self.at += 1
                elif c != self.closing[self.depth]:
                    return self.refuse(CHARACTER)
                elif self.close() < 0:
                    return READ_REFUSED
            elif self.expects == VALUE or self.expects == VALUE_OR_END:
                if c == c']' and self.expects == VALUE_OR_END:
                    if self.close() < 0:
                        return READ_REFUSED
                    continue
                if self.way == NOTE or self.way == SKIP:
                    if (is_digit(c) or c == c'-') and self.closing[self.depth] == c']':
                        if self.read_numbers(stop) < 0:
                            return READ_REFUSED
                        continue
                elif self.begin_value(c) < 0:
                    return READ_REFUSED
                if c == c'"':
                    self.in_key = False
                    self.expects = STRING
                    self.at += 1
                elif c == c'[' or c == c'{':
                    if self.depth == DEPTH_MOST:
                        return self.refuse(DEPTH)
                    self.depth += 1
                    self.closing[self.depth] = c + 2          # as ASCII has them
                    self.expects = VALUE_OR_END if c == c'[' else KEY_OR_END
                    self.at += 1
                elif self.read_scalar(c) < 0:
                    return READ_REFUSED
            elif self.expects == COLON:
                if c != c':':
                    return self.refuse(CHARACTER)
                self.expects = VALUE
                self.at += 1
            elif self.expects == NOTHING:
                return self.refuse(BEHIND)
            elif c == c'"':
                self.in_key = True
                self.key_at = self.at
                self.expects = STRING
                self.at += 1
            elif c == c'}' and self.expects == KEY_OR_END:
                if self.close() < 0:
                    return READ_REFUSED
            else:
                return self.refuse(CHARACTER)
        if self.at < self.size:
            return READ_MORE
        return READ_DONE if self.expects == NOTHING else self.refuse(CUT_OFF)

    cdef int read_string(self, size_t stop) noexcept nogil:
        """Goes on with a string up to its end, or to `stop`."""
        cdef const unsigned char *text = self.text
        cdef size_t at = self.at
        cdef size_t size
        cdef unsigned char c
        while at < stop:
            c = text[at]
            if c == c'"':
                self.at = at + 1
                return self.end_key() if self.in_key else self.end_value()
            if c == c'\\':
                self.at = at
                if self.read_escape() < 0:
                    return READ_REFUSED
                at = self.at
            elif c < 32:
                self.at = at
                return self.refuse(CONTROL)
            elif c < 128:
                at += 1
            else:
                size = utf8_sequence(text + at, self.size - at)
                if size == 0:
                    self.at = at
                    return self.refuse(NOT_UTF8)
                at += size
        self.at = at
        return READ_MORE

    cdef int read_escape(self) noexcept nogil:
        cdef const unsigned char *at = self.text + self.at
        cdef size_t left = self.size - self.at
        cdef unsigned char c
        if left < 2:
            self.at = self.size
            return self.refuse(CUT_OFF)
        c = at[1]
        if c != c'u':
            if not (c == c'"' or c == c'\\' or c == c'/' or c == c'b' or c == c'f' or c == c'n' or c == c'r'
                    or c == c't'):
                return self.refuse(ESCAPE)
            self.at += 2
            return READ_MORE
        if not is_hex4(at, left):
            return self.refuse(ESCAPE)
        if unit(at) & 0xF8 != 0xD8:
            self.at += 6
            return READ_MORE
        # U+D800 to U+DBFF, and the other half behind it
        if unit(at) >= 0xDC or left < 12 or at[6] != c'\\' or at[7] != c'u' or not is_hex4(at + 6, left - 6):
            return self.refuse(SURROGATE)
        if unit(at + 6) & 0xFC != 0xDC:
            return self.refuse(SURROGATE)
        self.at += 12
        return READ_MORE

    cdef int read_numbers(self, size_t stop) noexcept nogil:
        """Numbers of an array that is noted or passed over, as far as they stand one behind the other."""
        cdef const unsigned char *text = self.text
        cdef size_t at = self.at
        cdef size_t size = 0
        cdef int64_t count = 0
        self.expects = MORE_OR_END
        while True:
            size = number_size(text + at, min(self.size - at, <size_t>NUMBER_MOST + 1))
            if size == 0 or size > NUMBER_MOST:
                break
            at += size
            count += 1
            if at >= stop or text[at] != c',':
                break
            at += 1
            if at < stop and text[at] == c' ':
                at += 1
            if at >= stop or not (is_digit(text[at]) or text[at] == c'-'):
                self.expects = VALUE
                break
        self.at = at
        if self.way == NOTE and self.depth == self.way_depth + 1:
            self.values[self.value_count - 1].count += count
        if size > NUMBER_MOST:
            return self.refuse(LONG_NUMBER)
        # What begins as a number may be an infinity.
        return READ_MORE if size else self.read_scalar(text[at])

    cdef int read_scalar(self, unsigned char c) noexcept nogil:
        cdef const unsigned char *at = self.text + self.at
        cdef size_t left = self.size - self.at
        cdef size_t size
        if c == c'-' and left > 1 and at[1] == c'I':
            size = word_size(at + 1, left - 1)
            size += size != 0
        elif c == c'-' or is_digit(c):
            size = number_size(at, left if left < NUMBER_MOST + 1 else NUMBER_MOST + 1)
            if size > NUMBER_MOST:
                return self.refuse(LONG_NUMBER)
            if size == 0:
                return self.refuse(NUMBER)
        else:
            size = word_size(at, left)
        if size == 0:
            return self.refuse(CHARACTER)
        self.at += size
        return self.end_value()

    cdef int begin_value(self, unsigned char c) noexcept nogil:
        """Finds the way of a value, by where it is. It begins at `at`."""
        if self.way == KEEP or self.way == COUNT:
            self.kept_values += 1
            return READ_MORE if self.kept_values <= self.values_most else self.refuse(TOO_MANY)
        self.way_depth = self.depth
        if self.depth == 0:
            if self.counts_only:
                self.way = COUNT
                return READ_MORE
            if c == c'{':
                return self.keep(b"{", 1)
            self.way = SKIP                   # its kind alone matters
            return self.keep(b"0", 1)
        if self.depth == 1:
            return self.begin_named() if self.names is not None else self.begin_member(c)
        if self.depth == 2:
            return self.begin_tensor(c)
        if self.member == DATA and self.array == INPUTS:
            return self.note(b'"data"', 6)
        if self.member == NAME or self.member == PARAMETERS or self.array == INPUTS and (
                self.member == DATATYPE or self.member == SHAPE):
            self.way = KEEP
            self.began = self.key_at
        else:
            self.way = SKIP
        return READ_MORE

    cdef int begin_member(self, unsigned char c) noexcept nogil:
        """Of the request."""
        self.way = SKIP
        if self.member == ID or self.member == PARAMETERS:
            self.ids += self.member == ID
            self.way = KEEP
            self.began = self.key_at
        elif self.member == INPUTS or self.member == OUTPUTS:
            if (self.keep_element(b'"inputs":', 9) if self.member == INPUTS
                    else self.keep_element(b'"outputs":', 10)) < 0:
                return READ_REFUSED
            if c != c'[':
                # An array it is not; null, it may be as good as absent.
                return self.keep(b"null", 4) if c == c'n' else self.keep(b"0", 1)
            self.way = DESCEND
            self.array = self.member
            self.tensors = 0
            return self.keep(b"[", 1)
        return READ_MORE

    cdef int begin_tensor(self, unsigned char c) noexcept nogil:
        """An element of `inputs` or `outputs`. One above the limit is enough to be refused."""
        self.way = SKIP
        if self.tensors > MAX_TENSORS:
            return READ_MORE
        self.tensors += 1
        if c != c'{':
            return self.keep_element(b"0", 1)
        self.way = DESCEND
        return self.keep_element(b"{", 1)

    cdef int begin_named(self) noexcept nogil:
        """A member of a generate request: a tensor by its name, or a parameter."""
        cdef bint known
        with gil:
            known = self.is_named()
        if known:
            return self.note(<const char *>self.text + self.key_at, self.key_end - self.key_at)
        self.way = KEEP
        self.began = self.key_at
        return READ_MORE

    cdef bint is_named(self) noexcept:
        """Whether the model has an input of the member's name."""
        cdef size_t size = self.key_end - self.key_at
        if size > self.kept_most:
            return False
        return orjson.loads((<const char *>self.text + self.key_at)[:size]) in self.names

    cdef int note(self, const char *key, size_t size) noexcept nogil:
        """The value at `at` stays where it is."""
        cdef tg_value *more
        if self.value_count == self.value_room:
            more = <tg_value *>realloc(self.values, <size_t>(self.value_room + 16) * sizeof(tg_value))
            if more == NULL:
                return self.refuse(MEMORY)
            self.values = more
            self.value_room += 16
        self.way = NOTE
        self.values[self.value_count] = tg_value(self.at, self.at, 0 if self.text[self.at] == c'[' else -1)
        if self.keep_element(key, size) < 0 or self.keep(b":", 1) < 0:
            return READ_REFUSED
        if append_number(&self.kept, <size_t>self.value_count) < 0:
            return self.refuse(MEMORY)
        self.value_count += 1
        return READ_MORE

    cdef int end_value(self) noexcept nogil:
        """A value has ended in front of `at`."""
        cdef tg_value *value
        self.expects = MORE_OR_END if self.depth else NOTHING
        if self.way == DESCEND:
            return READ_MORE
        if self.depth != self.way_depth:
            if self.way == NOTE and self.depth == self.way_depth + 1:
                value = &self.values[self.value_count - 1]
                value.count += value.count >= 0
            return READ_MORE
        if self.way == NOTE:
            self.values[self.value_count - 1].end = self.at
        elif self.way == KEEP:
            if self.keep_element(<const char *>self.text + self.began, self.at - self.began) < 0:
                return READ_REFUSED
        self.way = DESCEND
        return READ_MORE

    cdef int end_key(self) noexcept nogil:
        cdef char[KEY_MOST] plain
        cdef const unsigned char *key = self.text + self.key_at + 1
        cdef size_t size = self.at - self.key_at - 2
        self.expects = COLON
        self.key_end = self.at
        if self.way != DESCEND:
            return READ_MORE
        self.member = OTHER
        if size <= KEY_MOST:
            size = unescaped(key, size, plain)
            self.member = member_of(plain, size)
        return READ_MORE

    cdef int close(self) noexcept nogil:
        """The innermost array or object ends at `at`."""
        self.depth -= 1
        self.at += 1
        if self.way == DESCEND:
            if self.keep(b"}" if self.closing[self.depth + 1] == c'}' else b"]", 1) < 0:
                return READ_REFUSED
        return self.end_value()

    cdef int keep(self, const char *text, size_t size) noexcept nogil:
        if size > self.kept_most - self.kept.end:
            return self.refuse(TOO_LONG)
        if tg_buffer_append(&self.kept, text, size) < 0:
            return self.refuse(MEMORY)
        return READ_MORE

    cdef int keep_element(self, const char *text, size_t size) noexcept nogil:
        """An element of an array or a member of an object."""
        cdef char last = self.kept.data[self.kept.end - 1]
        self.kept_values += 1
        if self.kept_values > self.values_most:
            return self.refuse(TOO_MANY)
        if last != c'{' and last != c'[' and self.keep(b",", 1) < 0:
            return READ_REFUSED
        return self.keep(text, size)

    cdef object refusal(self):
        if self.problem == MEMORY:
            return MemoryError()
        return OipError(REFUSALS[self.problem].format(at=self.at, most=self.kept_most, values=self.values_most))

    cdef object document(self):
        cdef object text = PyMemoryView_FromMemory(
            tg_buffer_head(&self.kept), <Py_ssize_t>tg_buffer_size(&self.kept), PyBUF_READ)
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            refused = error
        try:
            return nonfinite.load(text)
        except nonfinite.TooLong as error:
            raise OipError(str(error)) from None
        except ValueError:
            raise OipError(f"the request is not valid JSON: {refused}") from None

    cdef bytes kept_text(self):
        return tg_buffer_head(&self.kept)[:tg_buffer_size(&self.kept)]

    cdef list counts(self):
        cdef int i
        return [self.values[i].count for i in range(self.value_count)]


cdef void end_reader(void *reader) noexcept:
    tg_buffer_free(&(<Reader>reader).kept)
    free((<Reader>reader).values)


tg_end_by(<PyTypeObject *>Reader, end_reader)


cdef Reader read_text(const char *text, size_t size, dict names):
    cdef Reader reader = Reader.__new__(Reader)
    reader.text = <const unsigned char *>text
    reader.size = size
    reader.names = names
    reader.kept_most = KEPT_MOST if names is None else NAMED_MOST
    reader.values_most = VALUES_MOST
    return reader


cdef Reader count_values(const char *text, size_t size, int most):
    cdef Reader reader = read_text(text, size, None)
    reader.values_most = most
    reader.counts_only = True
    return reader
