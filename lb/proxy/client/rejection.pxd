"""Error pages of requests that never became an exchange: they have no route, and the page is the listener's."""

from lb.proxy.client.client cimport Client
from lb.proxy.exchange.refusal cimport Refusal


# Has the answer to such a request, which failed with `status`, say the listener's page for it, where that has one.
cdef void dress_rejection(Client client, Refusal answer, int status, str message) noexcept
