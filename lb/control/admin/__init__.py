"""The admin server in the master: metrics, status, verbs, dashboard, its token and its limits.

What a verb does is in the module of its subject.
"""
