"""One answer of HTTP/1.1 for callers in Python: see http1_reader.pxd."""

from lb.http.head cimport MAX_FIELDS, SCAN_TOO_MANY_FIELDS, Scan, plainly_chunked, worker_scan
from lb.http.http1 cimport new_response_parser


cdef class AnswerReader:
    """`headless`: the request was HEAD. A head is at most `max_head` bytes. Interim answers are passed over; 101 is
    none, to someone who asked for it."""

    def __init__(self, bint headless, size_t max_head):
        self.parser = new_response_parser()
        self.parser.headless = headless
        self.max_head = max_head
        self.kept = b""

    def feed(self, bytes data) -> bytes:
        """What `data`, the next bytes that came, has of the body. ValueError: no worker would pass that answer on."""
        cdef Scan *scan = worker_scan()
        cdef const char *at
        cdef size_t n
        cdef Py_ssize_t taken
        cdef int i
        cdef list body = []
        data = self.kept + data
        at = data
        n = <size_t>len(data)
        while n and not self.complete:
            scan.max_fields = MAX_FIELDS - 1
            taken = self.parser.execute(scan, at, n)
            if taken < 0:
                raise ValueError("too many header fields" if scan.error == SCAN_TOO_MANY_FIELDS
                                 else self.parser.why.decode("latin-1"))
            if taken == 0 and not scan.head:
                if n > self.max_head:
                    raise ValueError("the head is too large")
                break
            at += taken
            n -= <size_t>taken
            if scan.head and (scan.status >= 200 or scan.status == 101):
                self.status = scan.status
                if not plainly_chunked(scan):
                    raise ValueError("it has a transfer coding that nobody asked for")
            for i in range(scan.span_count):
                body.append((<char *>scan.spans[i].iov_base)[:scan.spans[i].iov_len])
            if scan.complete and self.status:
                self.complete = True
            elif scan.complete:
                self.parser.reset()           # an interim answer
        self.kept = at[:n] if not self.complete else b""
        return b"".join(body)

    def end(self) -> None:
        """The endpoint closed its side. Raises ValueError inside of an answer, and before one."""
        cdef Scan *scan = worker_scan()
        if self.complete:
            return
        if self.parser.finish(scan) < 0 or not scan.complete:
            raise ValueError("the connection was closed within it")
        self.complete = True
