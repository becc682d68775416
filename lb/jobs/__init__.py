"""Jobs: requests that are accepted now and answered later. The store, the service for clients, and the runner.

All of it runs in the jobs process, which the master starts (lb.control.jobs). Nothing here is on the data path: workers
reach the service as any endpoint, and the runner reaches the pools as any client (docs/adr/jobs.md).
"""
