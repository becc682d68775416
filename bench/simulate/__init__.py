"""The daemon's balancing in simulated time: thousands of seconds in seconds, without a network.

Everything a worker does with a request but its bytes is the daemon's own compiled code; the servers are the emulator's
model. `simulate` runs one scenario; `python -m bench simulate` compares policies.
"""

from bench.simulate.drawn import drawn
from bench.simulate.result import Answer, Result
from bench.simulate.run import simulate
from bench.simulate.scenario import Join, Kind, Scenario
from bench.simulate.scenarios import SCENARIOS

__all__ = ["SCENARIOS", "Answer", "Join", "Kind", "Result", "Scenario", "drawn", "simulate"]
