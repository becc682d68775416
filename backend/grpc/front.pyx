"""What all connections of the server share: see front.pxd."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp, memcpy
from lb.http.grpc.protobuf cimport span
from lb.net.work cimport new_work_queue

cdef enum:
    LONGEST_KEY = 4096                # names and versions above are no model's


cdef class Front:

    def __init__(self, Poller poller not None, Load load not None, service: Any, Tracer tracer = None) -> None:
        self.poller = poller
        self.load = load
        self.service = service
        self.tracer = tracer
        self.connections = set()
        self.queues = {}
        self.works = new_work_queue(poller)

    cdef ModelQueue find(self, const span *name, const span *version) noexcept:
        cdef size_t size = name.size + 1 + version.size
        cdef bytes key
        cdef char *at
        if size > LONGEST_KEY or name.size == 0:
            return None
        if self.recent is not None and <size_t>PyBytes_GET_SIZE(self.recent_key) == size:
            at = PyBytes_AS_STRING(self.recent_key)
            if (at[name.size] == 0 and memcmp(at, name.data, name.size) == 0
                    and (version.size == 0 or memcmp(at + name.size + 1, version.data, version.size) == 0)):
                return self.recent
        key = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
        at = PyBytes_AS_STRING(key)
        memcpy(at, name.data, name.size)
        at[name.size] = 0
        if version.size:
            memcpy(at + name.size + 1, version.data, version.size)
        queue = self.queues.get(key)
        if queue is None:
            return None
        self.recent_key, self.recent = key, <ModelQueue>queue
        return <ModelQueue>queue

    def offer(self, queues: dict[tuple[str, str], ModelQueue]) -> None:
        """From now on these models are served, by name and version; an empty version is the default one."""
        self.recent = None
        self.queues = {f"{name}\0{version}".encode(): queue for (name, version), queue in queues.items()}

    def leave(self) -> None:
        """Asks all clients to go: their calls in flight are answered, and those that come meanwhile."""
        self.leaving = True
        for connection in list(self.connections):
            connection.leave()

    def close(self) -> None:
        """Ends all connections; their calls are given up."""
        for connection in list(self.connections):
            connection.close()
