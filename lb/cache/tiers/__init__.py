"""Cache tiers: answers that several daemons share, in Redis, Valkey or Memcached, behind each daemon's own memory.

`tier` is what the data path calls, `store` what a kind of server has to offer, `entry` the encoding of what is kept.
`breaker` decides when a server is left alone. The memory of a daemon is in lb/cache itself.
"""
