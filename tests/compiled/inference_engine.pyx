"""The engine of the model server, for its tests: messages go in, answers are kept."""

from cpython.object cimport PyObject
from libc.stdint cimport UINT64_MAX
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from backend.inference.engine cimport Engine, ModelQueue
from backend.inference.inference cimport Waiter, inference_free, inference_read, tg_inference
from backend.inference.reply cimport reply_fields, reply_tensor, reply_tensor_head
from lb.http.grpc.protobuf cimport span
from lb.inference.message cimport RequestMessage, read_request
from lb.net.buffer cimport tg_buffer, tg_buffer_append, tg_buffer_free, tg_buffer_head, tg_buffer_size
from lb.net.link cimport link_append
from lb.net.poller cimport Source, monotonic_ns

import asyncio


HELD = set()                          # who waits: an inference does not hold its waiter
cdef int ANSWERED = 0


cdef class Written(Source):
    """As a connection: it writes at the end of the poller's batch. `after` tells how many inferences were answered by
    then."""
    cdef readonly int after

    cdef void on_flush(self) noexcept:
        self.after = ANSWERED


cdef class Asked(Waiter):
    """One inference: `done` is a future of (status, problem, response)."""
    cdef readonly object done
    cdef readonly Written written
    cdef ModelQueue model_queue
    cdef tg_inference *inference

    cdef void answered(self, tg_inference *inference) noexcept:
        global ANSWERED
        ANSWERED += 1
        self.model_queue.engine.poller.mark(self.written)
        self.take(inference)
        HELD.discard(self)

    cdef object take(self, tg_inference *inference):
        cdef tg_buffer out
        cdef span tensor
        cdef int i
        out.data = NULL
        out.start = out.end = out.capacity = 0
        self.inference = NULL
        response = None
        if inference.status == 0:
            assert reply_fields(&out, inference) == 0
            for i in range(inference.wanted_count):
                tensor = reply_tensor(inference, i)
                assert reply_tensor_head(&out, tensor.size) == 0
                assert tg_buffer_append(&out, tensor.data, tensor.size) == 0
            response = tg_buffer_head(&out)[:tg_buffer_size(&out)]
            tg_buffer_free(&out)
        problem = inference.problem[:inference.problem_size].decode() if inference.problem != NULL else ""
        if not self.done.done():
            self.done.set_result((inference.status, problem, response))
        inference_free(inference)

    def leave(self) -> None:
        """Nobody waits any more."""
        if self.inference != NULL:
            self.model_queue.abandon(self.inference)
            self.inference = NULL
            HELD.discard(self)


def on_the_loop(Engine engine) -> None:
    """However long a run of a steady model takes, the next one takes place on the loop."""
    engine.short_ns = UINT64_MAX


def submit(ModelQueue queue, bytes message, deadline=None) -> Asked:
    """None: the message is irregular. `deadline` is monotonic ns."""
    cdef RequestMessage request
    cdef tg_inference *inference = NULL
    cdef size_t size = len(message)
    cdef char *block = <char *>malloc(size + 1)
    cdef Asked asked = Asked.__new__(Asked)
    if block == NULL:
        raise MemoryError
    memcpy(block, <const char *>message, size)
    if read_request(&request, block, size) == NULL:
        inference = inference_read(queue.served, &request, block)
    if inference == NULL:
        free(block)
        return None
    asked.done = asyncio.get_running_loop().create_future()
    asked.model_queue = queue
    asked.written = Written()
    asked.inference = inference
    inference.waiter = <PyObject *>asked
    if deadline is not None:
        inference.deadline = deadline
    HELD.add(asked)
    link_append(&asked.turns, &inference.turn)
    queue.submit(inference, monotonic_ns())
    return asked


def read(ModelQueue queue, bytes message) -> tuple | None:
    """What a message asks for: inputs as shape and bytes, indices of outputs, id, whether the last answer is to be
    marked. None: the message is irregular."""
    cdef RequestMessage request
    cdef tg_inference *inference
    cdef size_t size = len(message)
    cdef char *block = <char *>malloc(size + 1)
    cdef int i, axis
    if block == NULL:
        raise MemoryError
    memcpy(block, <const char *>message, size)
    if read_request(&request, block, size) != NULL:
        free(block)
        return None
    inference = inference_read(queue.served, &request, block)
    if inference == NULL:
        free(block)
        return None
    operands = [
        (
            tuple([inference.operands[i].shape[axis] for axis in range(queue.served.c.inputs[i].rank)]),
            inference.operands[i].data[:inference.operands[i].size],
        )
        for i in range(queue.served.c.input_count)
    ]
    wanted = [inference.wanted[i] for i in range(inference.wanted_count)]
    found = operands, wanted, inference.id.data[:inference.id.size], bool(inference.final)
    inference_free(inference)
    return found
