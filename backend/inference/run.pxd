"""A run of a model on a batch, by ONNX Runtime's C API."""

from backend.inference.batch cimport tg_batch


# Runs the model on all members: `results` has what they get, or `status` or `problem` says why not. For any thread.
cdef void run(tg_batch *batch) noexcept nogil
