"""Sequences: see sequences.pxd.

A sequence begins with the flag of its first inference. It ends with the flag of its last one, when it has rested for as
long as the model allows, when another one begins under its id, and when an inference of it is not run: whatever came
behind would be computed from a state that lacks it. A sequence whose id is taken by another finishes the inferences
that it has.

The words of refusals are Triton's (core, sequence_batch_scheduler), which clients look for.
"""

import logging

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport UINT64_MAX, uint64_t
from libc.stdlib cimport calloc, free
from backend.inference.inference cimport STATUS_INVALID_ARGUMENT, STATUS_UNAVAILABLE, inference_fail, tg_inference
from backend.ort.c_api cimport OrtValue
from backend.ort.library cimport api
from lb.net.link cimport link_append, link_empty, link_init, link_remove
from lb.net.poller cimport monotonic_ns

log = logging.getLogger("tidegate.backend")


cdef class InferenceSequence:

    def __cinit__(self, int states):
        self.link.owner = <void *>self
        link_init(&self.held)
        self.kept.now = <OrtValue **>calloc(2 * <size_t>states + 1, sizeof(OrtValue *))
        if self.kept.now == NULL:
            raise MemoryError
        self.kept.next = self.kept.now + states
        self.kept.count = states

    def __dealloc__(self):
        cdef int i
        for i in range(2 * self.kept.count):
            if self.kept.now[i] != NULL:
                api.ReleaseValue(self.kept.now[i])
        free(self.kept.now)


cdef class Sequences(Timed):

    def __init__(self, Served served not None, Timers timers not None, int most, uint64_t idle) -> None:
        """At most `most` are open; one that rests for `idle` ns ends."""
        self.served = served
        self.timers = timers
        self.most = most
        self.idle = idle
        self.open = {}
        link_init(&self.resting)

    def __dealloc__(self):
        while not link_empty(&self.resting):          # they may be held by somebody else
            link_remove(self.resting.next)

    def __len__(self) -> int:
        return len(self.open)

    cdef bint enter(self, tg_inference *inference, uint64_t now) noexcept:
        try:
            return self.find(inference, now)
        except MemoryError:
            inference_fail(inference, STATUS_UNAVAILABLE, b"no memory for a sequence", 24)
            return False

    cdef object find(self, tg_inference *inference, uint64_t now):
        """False: it is refused. Raises MemoryError."""
        cdef bytes key = key_of(inference)
        cdef InferenceSequence sequence = self.open.get(key)
        if inference.starts:
            if sequence is not None:
                log.warning("%s: sequence %s begins before the one of that id has ended, which ends now",
                            self.served.model, name_of(inference))
                self.close_one(sequence)
            if len(self.open) >= self.most:
                self.refuse(inference, STATUS_UNAVAILABLE, f"{self.served.model}: {self.most} sequences are open")
                return False
            sequence = InferenceSequence(self.served.c.state_count)
            sequence.key = key
            self.open[key] = sequence
        elif sequence is None:
            self.refuse_unknown(inference, "")
            return False
        link_remove(&sequence.link)
        sequence.pending += 1
        Py_INCREF(sequence)
        inference.sequence = <PyObject *>sequence
        inference.kept = &sequence.kept
        if inference.ends:
            self.close_one(sequence)
        return True

    cdef void leave(self, tg_inference *inference, uint64_t now) noexcept:
        cdef InferenceSequence sequence = <InferenceSequence>inference.sequence
        inference.sequence = NULL
        inference.kept = NULL
        Py_DECREF(sequence)
        sequence.pending -= 1
        if sequence.pending == 0 and not sequence.closed:
            sequence.rested = now
            link_append(&self.resting, &sequence.link)
            self.arm()

    cdef void close_one(self, InferenceSequence sequence) noexcept:
        if not sequence.closed:
            sequence.closed = True
            link_remove(&sequence.link)
            self.open.pop(sequence.key, None)

    cdef object refuse(self, tg_inference *inference, int status, str text):
        cdef bytes said = text.encode()
        inference_fail(inference, status, PyBytes_AS_STRING(said), <size_t>len(said))

    cdef object refuse_unknown(self, tg_inference *inference, str why):
        self.refuse(
            inference, STATUS_INVALID_ARGUMENT,
            f"inference request for sequence {name_of(inference)} to model '{self.served.model.name}' must specify the "
            f"START flag on the first request of the sequence{why}")

    cdef void arm(self) noexcept:
        cdef InferenceSequence first
        if not link_empty(&self.resting):
            first = <InferenceSequence>self.resting.next.owner
            if self.deadline == UINT64_MAX or first.rested + self.idle < self.deadline:
                self.timers.arm(self, first.rested + self.idle)

    cdef void on_timer(self) noexcept:
        cdef uint64_t now = monotonic_ns()
        cdef InferenceSequence first
        self.deadline = UINT64_MAX
        while not link_empty(&self.resting):
            first = <InferenceSequence>self.resting.next.owner
            if now - first.rested < self.idle:
                break
            self.close_one(first)
        self.arm()


cdef bytes key_of(const tg_inference *inference):
    """A number and the text of it are two ids."""
    if inference.sequence_id.data != NULL:
        return b"t" + inference.sequence_id.data[:inference.sequence_id.size]
    return b"n%d" % inference.sequence_number


cdef str name_of(const tg_inference *inference):
    if inference.sequence_id.data != NULL:
        return inference.sequence_id.data[:inference.sequence_id.size].decode(errors="replace")
    return str(inference.sequence_number)
