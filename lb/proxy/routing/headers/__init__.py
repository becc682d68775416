"""Changes to the headers of requests and answers, and the headers that tell the next hop of the client.

Heads themselves are lb.http's.
"""
