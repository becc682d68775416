"""A policy's choice, in which endpoints whose recent attempts failed take only a part of their turns: see turns.pyx."""

from lb.balancing.policy cimport Policy
from lb.endpoints.choice cimport Choice


# The policy's choice, -1 = nobody; the excluded endpoint only where no other takes the request. Raises what the policy
# raises.
cdef int pick_any(Policy policy, Choice choice) except -2
# The same past endpoints that fail. `choice.reluctant` then says whether the endpoint has failed of late, and is chosen
# since no other takes the request.
cdef int pick_in_turn(Policy policy, Choice choice) except -2
