"""Models of the `pools` section: endpoints, health, affinity, queue, discovery, model servers.

The options of balancing policies are in lb.balancing.options.
"""
