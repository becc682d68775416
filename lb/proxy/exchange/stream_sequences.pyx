"""The sequences in a stream of inference requests: see stream_sequences.pxd."""

from libc.stdint cimport uint64_t
from lb.net.buffer cimport (
    tg_buffer, tg_buffer_append, tg_buffer_clear, tg_buffer_consume, tg_buffer_free, tg_buffer_head, tg_buffer_size,
)
from lb.inference.sequence cimport (
    GRPC_FRAME, LOOK_FOUND, LOOK_MORE, LOOK_MOST, infers, look_for_sequence, looked, message_length, next_look,
    tg_sequence,
)
from lb.proxy.exchange.exchange cimport Exchange
from lb.upstream.affinity.sequences cimport Sequences

cdef enum:
    STREAM_PATH_LENGTH = 48           # of /inference.GRPCInferenceService/ModelStreamInfer


cdef bint streams_inferences(const char *path, size_t n) noexcept nogil:
    return n == STREAM_PATH_LENGTH and infers(path, n)


cdef char *put_decimal(char *at, uint64_t value) noexcept nogil:
    cdef char reversed[20]
    cdef int n = 0
    while True:
        reversed[n] = <char>(48 + value % 10)
        n += 1
        value //= 10
        if value == 0:
            break
    while n:
        n -= 1
        at[0] = reversed[n]
        at += 1
    return at


cdef uint64_t sequence_key(Sequences sequences, const tg_sequence *found) noexcept nogil:
    cdef char digits[24]
    cdef const char *text = found.id.data
    cdef size_t n = found.id.size
    if n == 0:
        text = digits
        n = <size_t>(put_decimal(digits, found.number) - digits)
    return sequences.key_of(found.model.data, found.model.size, found.version.data, found.version.size, text, n,
                            found.id.size != 0)


cdef class StreamSequences:

    def __dealloc__(self):
        tg_buffer_free(&self.part)

    cdef void begin(self, Exchange exchange, const tg_buffer *queue) noexcept:
        tg_buffer_clear(&self.part)
        self.left = self.ending = 0
        self.seen = 0
        self.blind = self.later = False
        self.take(exchange, tg_buffer_head(queue), tg_buffer_size(queue))

    cdef void take(self, Exchange exchange, const char *data, size_t size) noexcept:
        cdef tg_buffer *part = &self.part
        cdef size_t used
        if self.blind or exchange.pool.sequences is None:
            return                            # a reload may have switched them off while it waited in line
        if tg_buffer_size(part) == 0:
            used = self.read(exchange, data, size)
            self.blind = used < size and tg_buffer_append(part, data + used, size - used) < 0
        elif tg_buffer_append(part, data, size) < 0:
            self.blind = True
        elif tg_buffer_size(part) < self.enough:
            return
        else:
            tg_buffer_consume(part, self.read(exchange, tg_buffer_head(part), tg_buffer_size(part)))
        self.enough = next_look(tg_buffer_head(part), tg_buffer_size(part))

    cdef size_t read(self, Exchange exchange, const char *data, size_t size) noexcept:
        """Notes what the messages say; how many bytes are not needed again."""
        cdef size_t at = 0, n
        cdef tg_sequence found
        cdef looked verdict
        while at < size:
            if self.left == 0:
                verdict = look_for_sequence(data + at, size - at, size - at >= LOOK_MOST, &found)
                if verdict == LOOK_MORE:
                    break
                self.left = GRPC_FRAME + message_length(data + at)
                if verdict == LOOK_FOUND:
                    self.note(exchange, &found)
                self.later = True
            n = <size_t>min(self.left, <uint64_t>(size - at))
            at += n
            self.left -= n
            if self.left == 0 and self.ending:
                exchange.pool.sequences.end(self.ending)
                self.ending = 0
        return at

    cdef void note(self, Exchange exchange, tg_sequence *found) noexcept:
        cdef Sequences sequences = exchange.pool.sequences
        cdef uint64_t now = exchange.client.poller.now
        cdef uint64_t key = sequence_key(sequences, found)
        if found.start and self.later:
            self.seen += 1
            if self.seen <= self.begun:
                # With the stream, which nobody has processed yet.
                sequences.move(key, exchange.attempt.endpoint, now)
            else:
                self.begun = self.seen
                sequences.begin(key, exchange.attempt.endpoint, now)
        elif sequences.index_of(sequences.table.look(key, now)) == exchange.attempt.endpoint:
            sequences.touch(key, now)
        else:
            return                            # it is open elsewhere, or not at all: the server will say so
        if found.end:
            self.ending = key
