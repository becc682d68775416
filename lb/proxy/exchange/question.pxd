"""What an exchange asks of the master: calls whose answer is a whole pool's (lb.control.endpoints.pool_calls)."""

from lb.proxy.exchange.exchange cimport Exchange


cdef class Question:
    cdef Exchange exchange            # None: nobody waits for the answer any more


# Asks by `ask` (lb.control.workers.worker.Ask) what the exchange's pool answers to `request`, a message of `method`.
# The exchange's body source is told, also before this returns, unless it sets the question's exchange to None.
cdef Question put_question(object ask, Exchange exchange, str method, bytes request)
