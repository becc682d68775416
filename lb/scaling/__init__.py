"""How many replicas a managed pool should have: pure decisions, no processes, no loops.

A rule (`rules/`) has recommenders, which say what each signal asks for; their wishes are combined, held by windows,
delays and steps, and bounded by the limits (`plan.py`). `registry.py` knows the rules by name."""
