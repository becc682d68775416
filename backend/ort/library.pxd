"""ONNX Runtime's library in this process."""

from backend.ort.c_api cimport OrtApi, OrtEnv, OrtMemoryInfo, OrtStatus

# Set by `load`, for the rest of the process; NULL before.
cdef const OrtApi *api
cdef OrtEnv *environment
cdef OrtMemoryInfo *host_memory       # tensors in memory that any thread of the process may read

# The message of a status in one line; releases it.
cdef str text_of(OrtStatus *status)
# Raises OrtError of a status that is not NULL, and releases it.
cdef int check(OrtStatus *status) except -1
