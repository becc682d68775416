"""Flights over all workers, called from Python."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from lb.cache.layout cimport TG_FLIGHT_WAYS, tg_flight_set, tg_key_flight
from lb.cache.shared_flights cimport (
    FLIGHT_FOLLOWS, FLIGHT_FULL, FLIGHT_GOES_ON, FLIGHT_LEADS, FLIGHT_OVER, FLIGHT_UNSHARED, LEASE_NS, SharedFlights,
)
from lb.cache.store cimport ResultCache
from lb.shared.atomics cimport tg_load64, tg_store64


LEASE = LEASE_NS
WAYS = TG_FLIGHT_WAYS
JOINED = {FLIGHT_LEADS: "leads", FLIGHT_FOLLOWS: "follows", FLIGHT_FULL: "full"}
SEEN = {FLIGHT_GOES_ON: "goes on", FLIGHT_OVER: "over", FLIGHT_UNSHARED: "unshared"}


def join(SharedFlights flights not None, bytes digest not None, now):
    assert len(digest) == 32
    return JOINED[flights.join(digest, now)]


def look(SharedFlights flights not None, bytes digest not None, now):
    return SEEN[flights.look(digest, now)]


def end(SharedFlights flights not None, bytes digest not None, bint shared=True):
    flights.end(digest, shared)


def forget(SharedFlights flights not None, bytes digest not None):
    flights.forget(digest)


def renew(SharedFlights flights not None, now):
    flights.renew(now)


def awaited(SharedFlights flights not None, bytes digest not None):
    return flights.awaited(digest)


def parts(SharedFlights flights not None):
    """Digests that the worker leads, and follows."""
    return set(flights.led), set(flights.followed)


cdef tg_flight_set *set_of(ResultCache cache, bytes digest):
    assert len(digest) == 32
    return &cache.flights[tg_key_flight(<const unsigned char *> <const char *> digest) & cache.flight_mask]


def claims(ResultCache cache not None, bytes digest not None):
    """The claims of the digest's set."""
    cdef tg_flight_set *ways = set_of(cache, digest)
    return [tg_load64(&ways.ways[way].claim) for way in range(<int> TG_FLIGHT_WAYS)]


def write_claim(ResultCache cache not None, bytes digest not None, int way, uint64_t word):
    tg_store64(&set_of(cache, digest).ways[way].claim, word)


def write_waiting(ResultCache cache not None, bytes digest not None, int way, bytes bits not None):
    assert len(bits) == 16
    memcpy(set_of(cache, digest).ways[way].waiting, <const char *> bits, 16)


def open_flights(ResultCache cache not None):
    """Places of the table that are in use."""
    cdef uint32_t i
    cdef int way
    return sum(
        tg_load64(&cache.flights[i].ways[way].claim) != 0
        for i in range(cache.flight_mask + 1) for way in range(<int> TG_FLIGHT_WAYS)
    )
