"""Single flight: concurrent identical misses of one worker become one request.

The first to ask for a key leads: it fetches the answer. Who asks meanwhile follows. A flight ends with `finish`, or
when its leader gives up and `promote` finds nobody to go on. Bookkeeping only: telling the followers is the caller's
part.
"""


cdef class Flights:
    """The flights of one worker, by the digest of the request and the generations of its tags. Waiters are told apart
    by identity."""

    def __init__(self):
        self.flights = {}

    cpdef bint join(self, bytes key, waiter) except -1:
        """False: you lead. True: you follow, and are in the list that `finish` gives, unless you `leave` before."""
        cdef object followers = self.flights.get(key)
        if followers is None:
            self.flights[key] = {}
            return False
        followers[id(waiter)] = waiter
        return True

    cpdef list finish(self, bytes key):
        """The leader has its outcome: end the flight and return the followers, first come first."""
        cdef object followers = self.flights.pop(key, None)
        return [] if followers is None else list(followers.values())

    cpdef object promote(self, bytes key):
        """The leader gave up: return the first follower, who leads from now on, or end the flight and return None."""
        cdef object followers = self.flights.get(key)
        if not followers:
            self.flights.pop(key, None)
            return None
        return followers.pop(next(iter(followers)))

    cpdef void leave(self, bytes key, waiter) except *:
        """A follower's client left. Harmless for who does not follow."""
        cdef object followers = self.flights.get(key)
        if followers is not None:
            followers.pop(id(waiter), None)

    cpdef object followers_of(self, bytes key):
        """The followers of a flight, which is false while there are none; None when there is no flight."""
        return self.flights.get(key)

    def __len__(self):
        """Number of flights."""
        return len(self.flights)

    def followers(self):
        """Number of followers over all flights."""
        return sum(map(len, self.flights.values()))

    def __repr__(self):
        return f"<Flights {len(self.flights)} followers={self.followers()}>"
