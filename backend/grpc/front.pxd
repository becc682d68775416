"""What all connections of the server share."""

from libc.stdint cimport uint64_t
from backend.inference.engine cimport ModelQueue
from backend.inference.load cimport Load
from backend.inference.spans cimport Tracer
from lb.http.grpc.protobuf cimport span
from lb.net.poller cimport Poller
from lb.net.work cimport WorkQueue


cdef class Front:
    cdef readonly Poller poller
    cdef readonly Load load
    # Who answers what is rare: see backend.service.
    cdef readonly object service
    # Who is told of inferences that ended; None: there are no spans.
    cdef Tracer tracer
    cdef readonly set connections     # type: set[Any]
    cdef dict queues                  # name, NUL, version -> ModelQueue
    cdef bytes recent_key             # of the look-up before
    cdef ModelQueue recent
    cdef readonly int calls           # for inferences, that are under way
    cdef bint leaving
    cdef WorkQueue works

    # The queue of a model; an empty version is the default one. None: there is none.
    cdef ModelQueue find(self, const span *name, const span *version) noexcept
