"""Stock clients (tritonclient, perf_analyzer) against model servers, alone and behind a real daemon: what works."""
