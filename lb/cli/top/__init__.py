"""`tidegate top`: what listeners, routes, pools, endpoints and models do now, from two readings of the counters.

The reading of counters and what their differences mean is `rates`, tables are `columns` and `screen`, the terminal and
its keys are `terminal`. The daemon adds nothing: workers are not asked.
"""
