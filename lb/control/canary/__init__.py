"""Canaries: a new pool gets more and more of a route's requests, or none again, as its answers say.

Whether the canary is worse, and what follows, are decided here without any I/O but for the keeper and its file.
"""
