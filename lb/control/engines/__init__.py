"""Pools that an engine elsewhere runs: their scaling by this daemon, or by the one that leads.

Engines and leases are lb.engines', decisions lb.scaling's; model servers that Tidegate starts are in
lb.control.servers.
"""
