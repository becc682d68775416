from lb.balancing.policy import Policy
from lb.endpoints.choice import Choice

def pick(policy: Policy, choice: Choice, in_turn: bool = True) -> int: ...
