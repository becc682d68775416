"""The endpoint that a client, a session or a sequence stays with: cookies, learned sessions, sequences.

The shared table behind them is lb.shared.affinity_table.
"""
