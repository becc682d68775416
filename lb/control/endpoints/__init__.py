"""The master's view of endpoints: health, agents, discovery, ejections, models, changes at run time.

Checks are lb.health's, sources lb.discovery's, and the state that workers read is lb.shared's.
"""
