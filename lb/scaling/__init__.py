"""How many replicas a managed pool should have: pure decisions, no processes, no loops."""
