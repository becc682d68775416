"""Model servers side by side, with no balancer in front: inferences a second of one core, CPU time, latency."""
