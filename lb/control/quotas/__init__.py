"""What clients have used of quotas, as the master sees it: shown, reset, and kept in a file over restarts.

The counts themselves are in the shared segment (lb/shared/quotas), where workers change them.
"""
