"""What runs the replicas of a pool elsewhere, and how their number is changed; who of several daemons changes it.

Decisions on the number are lb.scaling's, endpoints are lb.discovery's; model servers on this machine are run by
lb.control.servers.
"""
