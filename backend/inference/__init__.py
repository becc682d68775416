"""Inferences from a message to an answer, without Python on the way: read, queued, merged, run, written."""
