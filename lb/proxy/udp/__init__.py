"""UDP: listeners, and the sessions of clients with endpoints.

The table of flows and the sockets' calls are lb.net's.
"""
