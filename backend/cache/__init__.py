"""The model cache: what takes long to build from a model, on disk, found by what it was built from.

Nothing here knows the protocol or the repository. Whatever is wrong with the cache, a model is loaded without it.
"""
