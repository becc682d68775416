"""The record of a TCP session that is over: its listener's series, and a line of the access log."""

from lb.proxy.tunnel cimport Tunnel

cdef void record_session(Tunnel tunnel) noexcept
