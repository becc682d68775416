"""A model in ONNX Runtime."""

from backend.ort.c_api cimport OrtRunOptions, OrtSession, OrtStatus, OrtValue


cdef class Session:
    cdef OrtSession *session
    cdef OrtRunOptions *quiet         # what fails in a run is told to its client, not to the log
    cdef readonly tuple inputs        # type: tuple[TensorInfo, ...]
    cdef readonly tuple outputs       # type: tuple[TensorInfo, ...]
    # By ONNX Runtime's names, the preferred one first.
    cdef readonly tuple providers     # type: tuple[str, ...]
    cdef dict indexes                 # name -> index of an input

    # Runs the model: `results` has `result_count` values, or NULL where ONNX Runtime is to make them. Any number of
    # threads may be in it. NULL, or the status of its failure, which is the caller's.
    cdef OrtStatus *execute(self, const char *const *names, const OrtValue *const *values, size_t count,
                            const char *const *result_names, size_t result_count, OrtValue **results) noexcept nogil
