"""Who takes up the connections that speak HTTP: see http_acceptor.pxd."""

from libc.string cimport memcpy
from posix.unistd cimport close
from lb.http.http1 cimport new_request_parser
from lb.net.stream cimport IO_ERROR
from lb.proxy.exchange.admission cimport Admission
from lb.proxy.client.connection cimport HttpConnection
from lb.proxy.accept.listener cimport Acceptor, Listener


cdef class HttpAcceptor(Acceptor):
    """Makes connections, whose requests go to `admission`."""

    def __init__(self, Admission admission):
        self.admission = admission

    cdef void accepted(self, Listener listener, int fd, const char *ip, int ip_length, int port, bint unix) noexcept:
        cdef HttpConnection connection = HttpConnection.__new__(HttpConnection)
        connection.poller = self.admission.poller
        connection.admission = self.admission
        connection.listener = listener
        connection.parser = new_request_parser()
        memcpy(connection.ip, ip, <size_t>ip_length)
        connection.ip_length = <unsigned char>ip_length
        connection.port = <unsigned short>port
        if listener.tls is None:
            # Most clients have sent their request by now: it is read at the end of this batch.
            connection.poller.adopt(connection, fd)
            connection.reader.unread = True
            connection.poller.mark(connection)
            (<set>listener.connections).add(connection)
            return
        try:
            connection.tls = listener.new_tls()
        except MemoryError:
            close(fd)
            listener.closed_one(ip, <size_t>ip_length)
            return
        if connection.register(fd) == IO_ERROR:
            listener.closed_one(ip, <size_t>ip_length)
            return
        (<set>listener.connections).add(connection)
        connection.set_timer()
