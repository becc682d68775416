"""Single flight against a model of who leads and who follows."""

from hypothesis import given
from hypothesis import strategies as st

from lb.cache import flight
from lb.cache.flight import Flights

KEY, OTHER = b"k" * 32, b"o" * 32


class Waiter:
    """Equal to every other, so that only identity can tell them apart."""

    def __eq__(self, other):
        return True

    __hash__ = None


def same(found, expected):
    return len(found) == len(expected) and all(a is b for a, b in zip(found, expected, strict=True))


def test_is_compiled():
    assert flight.__file__.endswith(".so")


def test_first_leads_and_the_others_get_its_outcome():
    flights = Flights()
    leader, second, third, elsewhere = (Waiter() for _ in range(4))
    assert not flights.join(KEY, leader)
    assert flights.join(KEY, second)
    assert flights.join(KEY, third)
    assert not flights.join(OTHER, elsewhere)
    assert (len(flights), flights.followers()) == (2, 2)
    assert same(flights.finish(KEY), [second, third])
    assert flights.finish(KEY) == []
    assert not flights.join(KEY, third)  # a new flight
    assert same(flights.finish(OTHER), [])


def test_promotion_goes_in_order_of_arrival():
    flights = Flights()
    waiters = [Waiter() for _ in range(4)]
    for waiter in waiters:
        flights.join(KEY, waiter)
    assert flights.promote(KEY) is waiters[1]
    flights.leave(KEY, waiters[2])
    assert flights.promote(KEY) is waiters[3]
    assert len(flights) == 1
    assert flights.promote(KEY) is None
    assert len(flights) == 0
    assert flights.promote(KEY) is None


def test_leaving_is_harmless_for_who_does_not_follow():
    flights = Flights()
    leader, follower = Waiter(), Waiter()
    flights.leave(KEY, leader)
    flights.join(KEY, leader)
    flights.join(KEY, follower)
    flights.leave(KEY, leader)
    flights.leave(KEY, Waiter())
    flights.leave(KEY, follower)
    flights.leave(KEY, follower)
    assert flights.finish(KEY) == []


steps = st.lists(
    st.tuples(st.sampled_from(["join", "leave", "finish", "promote"]), st.integers(0, 2), st.integers(0, 5))
)


@given(steps)
def test_against_a_model(operations):
    flights, model = Flights(), {}
    waiters = [Waiter() for _ in range(6)]
    for what, number, who in operations:
        key, waiter = bytes([number]) * 32, waiters[who]
        line = model.get(key)
        if what == "join":
            if line is not None and any(w is waiter for w in line):
                continue  # nobody asks twice
            assert flights.join(key, waiter) == (line is not None)
            model.setdefault(key, []).append(waiter)
        elif what == "leave":
            flights.leave(key, waiter)
            if line:
                model[key] = line[:1] + [w for w in line[1:] if w is not waiter]
        elif what == "finish":
            assert same(flights.finish(key), (line or [])[1:])
            model.pop(key, None)
        else:
            expected = line[1] if line and len(line) > 1 else None
            assert flights.promote(key) is expected
            if expected is None:
                model.pop(key, None)
            else:
                model[key] = line[1:]
        assert len(flights) == len(model)
        assert flights.followers() == sum(len(line) - 1 for line in model.values())
