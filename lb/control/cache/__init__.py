"""The result cache as the master sees it: what operators do with it, and who is told of a purge. The cache itself is
lb.cache, and what the data path does with it is in lb.proxy.exchange."""
