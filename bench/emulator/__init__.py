"""Emulated model servers: many in one process, each with its own service times, for latency benchmarks.

`python -m bench.emulator SPEC.json` serves a `Fleet`; each port answers HTTP/1.1, HTTP/2 and gRPC (the Open Inference
Protocol). What a request costs is decided by a model of queue, execution, stalls and noisy neighbours, and not by this
process's own speed; `GET /stats` on the control port tells how late it was itself. `client.ControlClient` reads the
counters and changes the plan.

Health methods and `/v2/health/…` are answered without an execution; a stall or a failure holds for them too.
"""
