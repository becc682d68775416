"""Who a request is from: providers that check credentials, and what a route asks for.

Knows heads and certificates, no exchanges: lb.proxy.exchange.authentication refuses requests and lets them in.
"""
