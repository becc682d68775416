"""Active health checks: what is asked of an endpoint, and how many answers change its state."""
