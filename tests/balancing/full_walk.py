"""A walk over 60 endpoints that ends early chooses what a full one would."""

from fleet import Fleet, choose
from hypothesis import strategies as st

ENDPOINTS = 60
FLEETS = {"data": st.data(), "heavy": st.lists(st.integers(0, ENDPOINTS - 1), max_size=5), "busy": st.floats(0, 1)}
"""What `check` is given."""


def check(name, key_of, data, heavy, busy):
    """The policy `name` takes the first, in its turn, of those with the lowest `key_of(fleet, weights, index)`.

    `heavy` are the endpoints of a high weight, `busy` is the share of those with something in flight.
    """
    random = data.draw(st.randoms(use_true_random=False))
    weights = [1 + i % 3 + 5 * (i in heavy) for i in range(ENDPOINTS)]
    with Fleet(weights) as fleet:
        policy = fleet.build(name)
        start = 0
        for i in range(ENDPOINTS):
            fleet.load(i, random.randint(1, 4) if random.random() < busy else 0)
        for _ in range(40):
            i = random.randrange(ENDPOINTS)
            (fleet.down if random.random() < 0.3 else fleet.up)(i)
            fleet.load(random.randrange(ENDPOINTS), 1)
            exclude = random.randint(-1, ENDPOINTS - 1)
            order = [(start + i) % ENDPOINTS for i in range(ENDPOINTS)]
            candidates = [i for i in order if i in fleet.available and i != exclude]
            picked = choose(policy, 0, 0, exclude)
            assert picked == min(candidates, key=lambda i: key_of(fleet, weights, i), default=-1)
            start = (picked + 1) % ENDPOINTS
