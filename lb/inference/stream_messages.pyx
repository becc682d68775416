"""Answers of ModelStreamInfer: see stream_messages.pxd.

    ModelStreamInferResponse {error_message = 1, infer_response = 2}            Triton
    ModelInferResponse {model_name = 1, model_version = 2, id = 3, …}           MLServer

Fields 1 and 2 have the same wire type in both. What tells them apart: an `infer_response` goes to the end of its
message, and so does an `error_message` without one; a model's name and version are followed by outputs. Triton's errors
may have an `infer_response` with the request's id: that begins with a byte that no version has.
"""

from collections.abc import Iterable

from cpython.object cimport PyTypeObject
from libc.stdint cimport uint64_t
from lb.http.grpc.protobuf cimport cursor, start_cursor, take_varint
from lb.net.buffer cimport tg_buffer_append, tg_buffer_clear, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.ending cimport tg_end_by

cdef enum:
    PREFIX = 5                        # of a message: whether it is compressed, and its length
    FIRST = 0x0A                      # tags of fields 1 and 2, which have a length
    SECOND = 0x12
    LONGEST = 64 * 1024               # bytes of a field that is looked past; of an error's text that is told
    PRINTABLE = 0x20
    VARINT = 10


cdef class StreamMessages:

    cdef void begin(self) noexcept:
        self.left = self.count = 0
        tg_buffer_clear(&self.head)

    cdef int take(self, const char *data, size_t size) noexcept:
        cdef const char *end = data + size
        cdef const char *unsent = data        # what is passed on as it came begins here
        cdef const char *message
        cdef size_t n, have
        cdef bint changed = False, kept
        cdef tg_form found
        tg_buffer_clear(&self.out)
        while data < end:
            if self.left:
                n = min(self.left, <size_t>(end - data))
                self.left -= n
                data += n
                continue
            kept = tg_buffer_size(&self.head) != 0
            if kept:
                # A byte at a time would do; a message's first bytes are few.
                if tg_buffer_append(&self.head, data, 1) < 0:
                    return MESSAGES_NO_MEMORY
                data += 1
                unsent = data
                changed = True                # this byte goes with the message
                message = tg_buffer_head(&self.head)
                have = tg_buffer_size(&self.head)
            else:
                message = data
                have = <size_t>(end - data)
            found = look(message, have, self.bare)
            if found.form == FORM_MORE:
                if kept:
                    continue
                if tg_buffer_append(&self.out, unsent, <size_t>(data - unsent)) < 0:
                    return MESSAGES_NO_MEMORY
                if tg_buffer_append(&self.head, data, have) < 0:
                    return MESSAGES_NO_MEMORY
                changed = True
                data = unsent = end
                continue
            n = length_of(message)
            self.count += 1
            if self.bare and found.form == FORM_ERROR:
                self.error = (message + PREFIX + found.at)[:found.size]
                if tg_buffer_append(&self.out, unsent, <size_t>(data - unsent) if not kept else 0) < 0:
                    return MESSAGES_NO_MEMORY
                return MESSAGES_ERROR
            if kept or (found.form == FORM_WRAPPED and self.bare) or (found.form == FORM_BARE and not self.bare):
                changed = True
                if not kept and tg_buffer_append(&self.out, unsent, <size_t>(data - unsent)) < 0:
                    return MESSAGES_NO_MEMORY
                have = min(have, PREFIX + n)
                if self.rewrite(message, have, n, &found) < 0:
                    return MESSAGES_NO_MEMORY
                if kept:
                    tg_buffer_clear(&self.head)
                else:
                    data += have
                unsent = data
                self.left = PREFIX + n - have
            else:
                self.left = PREFIX + n
        if not changed:
            return MESSAGES_SAME
        if tg_buffer_append(&self.out, unsent, <size_t>(data - unsent)) < 0:
            return MESSAGES_NO_MEMORY
        return MESSAGES_OTHER

    cdef int rewrite(self, const char *message, size_t have, size_t n, const tg_form *found) noexcept:
        """The first `have` bytes of a message of `n`, prefix included, in the form that the client reads."""
        cdef char field[1 + VARINT]
        cdef size_t size = 0
        cdef uint64_t rest = n
        if found.form == FORM_WRAPPED and self.bare:
            if self.prefix(found.size) < 0:
                return -1
            return tg_buffer_append(&self.out, message + PREFIX + found.at, have - PREFIX - found.at)
        if found.form == FORM_BARE and not self.bare:
            field[0] = SECOND
            size = 1
            while rest >= 0x80:
                field[size] = <char>(rest | 0x80)
                rest >>= 7
                size += 1
            field[size] = <char>rest
            size += 1
            if self.prefix(n + size) < 0 or tg_buffer_append(&self.out, field, size) < 0:
                return -1
            return tg_buffer_append(&self.out, message + PREFIX, have - PREFIX)
        return tg_buffer_append(&self.out, message, have)

    cdef int prefix(self, size_t n) noexcept:
        cdef char head[PREFIX]
        head[0] = 0
        head[1] = <char>(n >> 24)
        head[2] = <char>(n >> 16)
        head[3] = <char>(n >> 8)
        head[4] = <char>n
        return tg_buffer_append(&self.out, head, PREFIX)


cdef void end_messages(void *messages) noexcept:
    tg_buffer_free(&(<StreamMessages>messages).head)
    tg_buffer_free(&(<StreamMessages>messages).out)


tg_end_by(<PyTypeObject *>StreamMessages, end_messages)


cdef StreamMessages new_stream_messages(bint bare):
    cdef StreamMessages made = StreamMessages.__new__(StreamMessages)
    made.bare = bare
    return made


cdef size_t length_of(const char *message) noexcept nogil:
    cdef const unsigned char *head = <const unsigned char *>message
    return <size_t>head[1] << 24 | <size_t>head[2] << 16 | <size_t>head[3] << 8 | head[4]


cdef bint read_field(const char *at, size_t have, size_t n, int tag, size_t *begin, size_t *size,
                     bint *more) noexcept nogil:
    """Whether a field of that tag begins here, and where its value lies; `more`: that cannot be told yet. `have` bytes
    are here, `n` belong to the message."""
    cdef cursor c
    cdef uint64_t length
    more[0] = False
    if not have:
        more[0] = n != 0
        return False
    if <unsigned char>at[0] != tag:
        return False
    start_cursor(&c, at + 1, min(have - 1, <size_t>VARINT))
    if take_varint(&c, &length) < 0:
        more[0] = have - 1 < min(n - 1, <size_t>VARINT)
        return False
    begin[0] = <size_t>(<const char *>c.at - at)
    if length > n - begin[0]:
        return False
    size[0] = <size_t>length
    return True


cdef tg_form look(const char *message, size_t have, bint whole_errors) noexcept nogil:
    """What a message is, of which `have` bytes are here, its prefix included. `whole_errors`: an error's text has to be
    here, or as much of it as is told."""
    cdef tg_form found
    cdef const char *body = message + PREFIX
    cdef size_t n, at = 0, size = 0, next = 0, next_size = 0
    cdef bint more = False
    found.form = FORM_MORE
    found.at = found.size = 0
    if have < PREFIX:
        return found
    n = length_of(message)
    have = min(have - PREFIX, n)
    if message[0] or n == 0:
        found.form = FORM_EITHER
        return found
    if read_field(body, have, n, SECOND, &at, &size, &more):
        found.form = FORM_WRAPPED if at + size == n else FORM_BARE
        found.at = at
        found.size = size
        return found
    if more:
        return found
    if not read_field(body, have, n, FIRST, &at, &size, &more):
        found.form = FORM_MORE if more else FORM_BARE
        return found
    found.at = at
    found.size = min(size, <size_t>LONGEST)
    if at + size == n:
        found.form = FORM_MORE if whole_errors and have < at + found.size else FORM_ERROR
        return found
    if size > LONGEST:
        found.form = FORM_BARE
        return found
    next = at + size
    if have < next:
        return found
    if read_field(body + next, have - next, n - next, SECOND, &at, &next_size, &more):
        if next + at + next_size != n:
            found.form = FORM_BARE
        elif next_size and have <= next + at:
            return found
        else:
            # Of an empty version no server makes a field.
            found.form = FORM_BARE if next_size and <unsigned char>body[next + at] >= PRINTABLE else FORM_ERROR
        return found
    if not more:
        found.form = FORM_BARE
    return found


def translate(pieces: Iterable[bytes], bint bare) -> tuple[bytes, bytes | None]:
    """What a client that reads `bare` messages (or else Triton's) gets of an answer, and the error that ends it, or
    None. For Python code."""
    cdef StreamMessages messages = new_stream_messages(bare)
    cdef bytes piece
    cdef int found
    out = b""
    for piece in pieces:
        found = messages.take(<const char *>piece, <size_t>len(piece))
        if found == MESSAGES_NO_MEMORY:
            raise MemoryError
        out += piece if found == MESSAGES_SAME else tg_buffer_head(&messages.out)[:tg_buffer_size(&messages.out)]
        if found == MESSAGES_ERROR:
            return out, messages.error
    return out, None
