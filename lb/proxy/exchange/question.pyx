"""What an exchange asks of the master: see question.pxd."""

from lb.net.poller cimport monotonic_ns
from lb.proxy.exchange.exchange cimport X_DONE, Exchange


def nobody(pool, method, request, told):
    """For a data path without a master."""
    told(14, "there is no master to ask", b"")           # UNAVAILABLE


cdef class Question:

    def told(self, int status, str message, bytes reply):
        """The answer: a gRPC status, its message and the reply. It comes from the loop, outside of a batch."""
        cdef Exchange exchange = self.exchange
        self.exchange = None
        if exchange is None or exchange.state == X_DONE:
            return
        exchange.client.poller.now = monotonic_ns()
        exchange.source.told(exchange, status, message, reply)


cdef Question put_question(object ask, Exchange exchange, str method, bytes request):
    cdef Question question = Question.__new__(Question)
    question.exchange = exchange
    exchange.arm_wait()
    ask(exchange.pool.name, method, request, question.told)
    return question
