"""Clients of the platforms that run replicas elsewhere: Kubernetes, AWS, Google Cloud.

They speak the platforms' interfaces and know nothing of pools; what is asked of a platform is lb.discovery's and
lb.engines'.
"""
