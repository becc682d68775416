"""Models of the `routes` of a listener: conditions, actions, retries, rates.

The order and the tables that routes compile to are in lb.config.plan.plan.
"""
