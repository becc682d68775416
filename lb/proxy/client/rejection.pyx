"""Error pages of requests that never became an exchange: see rejection.pxd."""

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdio cimport snprintf
from libc.string cimport memset
from lb.proxy.client.client cimport Client
from lb.proxy.exchange.refusal cimport Refusal
from lb.proxy.routing.error_pages cimport ErrorPage, note_error
from lb.proxy.routing.values.format cimport (
    V_CLIENT_ADDRESS, V_CLIENT_PORT, V_LISTENER, V_SCHEME, set_name, set_value, tg_values,
)


cdef void dress_rejection(Client client, Refusal answer, int status, str message) noexcept:
    cdef ErrorPage page
    cdef tg_values values
    cdef char number[16]
    cdef const char *text
    cdef Py_ssize_t n = 0
    if client.listener.error_pages is None:
        return
    page = client.listener.error_pages.find(status, False)
    if page is None:
        return
    values.scan = NULL
    memset(values.known, 0, sizeof(values.known))
    try:
        text = PyUnicode_AsUTF8AndSize(message, &n)
    except (MemoryError, UnicodeEncodeError):
        return                                # the answer says it without a page
    note_error(&values, status, text, <size_t>n, number)
    set_name(&values.known[V_LISTENER], client.listener.name)
    values.known[V_CLIENT_ADDRESS].at = client.ip
    values.known[V_CLIENT_ADDRESS].n = client.ip_length
    if client.port:
        values.known[V_CLIENT_PORT].n = <size_t>snprintf(values.port, sizeof(values.port), b"%d", <int>client.port)
        values.known[V_CLIENT_PORT].at = values.port
    set_value(&values.known[V_SCHEME], client.scheme())
    page.dress(answer, &values)
