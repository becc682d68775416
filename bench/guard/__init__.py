"""The regression guard: instructions per request of the compiled data path, counted by callgrind.

See docs/howto/guard-the-hot-path.md. `measure` counts, `figures` keeps what was counted in instructions.json, `compare`
tells a change from none, `paths/` says what is counted: one small file for each way through the data path.
"""
