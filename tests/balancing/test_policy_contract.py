"""Tidegate's own policies against the contract."""

from contract import PolicyContract


class TestAuto(PolicyContract):
    policy = "auto"


class TestRoundRobin(PolicyContract):
    policy = "round_robin"


class TestLeastRequest(PolicyContract):
    policy = "least_request"


class TestNeverQueue(PolicyContract):
    policy = "never_queue"


class TestPowerOfTwo(PolicyContract):
    policy = "power_of_two"


class TestMaglev(PolicyContract):
    policy = "maglev"


class TestFirst(PolicyContract):
    policy = "first"
    options = {"fill": 2}


class TestLeastTime(PolicyContract):
    policy = "least_time"


class TestShortestExpectedDelay(PolicyContract):
    policy = "shortest_expected_delay"


class TestPeakEwma(PolicyContract):
    policy = "peak_ewma"


class TestPeakEwmaOfMany(PolicyContract):
    policy = "peak_ewma"
    options = {"choices": 32}


class TestPowerOfMany(PolicyContract):
    policy = "power_of_two"
    options = {"choices": 32}


class TestRandom(PolicyContract):
    policy = "random"


class TestRendezvous(PolicyContract):
    policy = "rendezvous"


class TestRingHash(PolicyContract):
    policy = "ring_hash"


class TestMaglevBounded(PolicyContract):
    policy = "maglev"
    options = {"bounded_load": 1.25}


class TestRendezvousBounded(PolicyContract):
    policy = "rendezvous"
    options = {"bounded_load": 1.0}


class TestRingHashBounded(PolicyContract):
    policy = "ring_hash"
    options = {"bounded_load": 1.25}


class TestPrequal(PolicyContract):
    policy = "prequal"


class TestPrequalByLoad(PolicyContract):
    policy = "prequal"
    options = {"quantile": 0, "full_utilization": 0.9}


class TestClientSideWeightedRoundRobin(PolicyContract):
    policy = "client_side_weighted_round_robin"


class TestAutoOfCosts(TestAuto):
    weighed = True


class TestLeastRequestOfCosts(TestLeastRequest):
    weighed = True


class TestNeverQueueOfCosts(TestNeverQueue):
    weighed = True


class TestPowerOfTwoOfCosts(TestPowerOfTwo):
    weighed = True


class TestFirstOfCosts(TestFirst):
    weighed = True


class TestLeastTimeOfCosts(TestLeastTime):
    weighed = True


class TestShortestExpectedDelayOfCosts(TestShortestExpectedDelay):
    weighed = True


class TestPeakEwmaOfCosts(TestPeakEwma):
    weighed = True


class TestMaglevBoundedOfCosts(TestMaglevBounded):
    weighed = True


class TestRendezvousBoundedOfCosts(TestRendezvousBounded):
    weighed = True


class TestPrequalOfCosts(TestPrequal):
    weighed = True


class TestPrequalByLoadOfCosts(TestPrequalByLoad):
    weighed = True


class TestRoundRobinOfCosts(TestRoundRobin):
    weighed = True
