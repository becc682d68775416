"""A model in ONNX Runtime: loaded, described, run.

A tensor that comes as an array is read where it is. A result is copied once, into the array that is returned.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from backend.ort.c_api cimport (
    ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, ONNX_TYPE_TENSOR, ORT_LOGGING_LEVEL_ERROR, ORT_LOGGING_LEVEL_FATAL,
    GraphOptimizationLevel, ONNXTensorElementDataType, ONNXType, OrtAllocator, OrtCUDAProviderOptionsV2, OrtSession,
    OrtSessionOptions, OrtStatus, OrtTensorRTProviderOptionsV2, OrtTensorTypeAndShapeInfo, OrtTypeInfo, OrtValue,
)
from backend.ort.library cimport api, check, environment, host_memory

import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy import ndarray

from backend.ort.errors import OrtError
from backend.ort.library import load
from backend.ort.tensors import DTYPES, KINDS, TensorInfo

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"


cdef class Session:
    """A loaded model, run from any number of threads at once.

    `providers` are asked for in order of preference, each with its own options. The CPU stands behind them.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        providers: Sequence[tuple[str, dict[str, str]]] = (),
        threads: int = 1,
        entries: Mapping[str, str] | None = None,
        save_to: str | os.PathLike[str] | None = None,
        level: int = 99,
    ) -> None:
        """`threads` is the number of threads of one run, `entries` are configuration entries of the session. The graph
        is optimised as far as `level` says, ONNX Runtime's number, and written to `save_to`. Raises OrtError when the
        model cannot be loaded or a provider cannot be had, LibraryError without ONNX Runtime."""
        cdef OrtSessionOptions *options = NULL
        cdef bytes name = os.fsencode(path)
        cdef bytes target = b"" if save_to is None else os.fsencode(save_to)
        cdef const char *file = PyBytes_AS_STRING(name)
        cdef OrtStatus *status
        load()
        check(api.CreateSessionOptions(&options))
        try:
            if target:
                check(api.SetOptimizedModelFilePath(options, PyBytes_AS_STRING(target)))
            check(api.SetSessionGraphOptimizationLevel(options, <GraphOptimizationLevel><int>level))
            check(api.SetIntraOpNumThreads(options, threads))
            check(api.SetInterOpNumThreads(options, 1))
            check(api.SetSessionLogSeverityLevel(options, ORT_LOGGING_LEVEL_ERROR))
            for key, value in (entries or {}).items():
                check(api.AddSessionConfigEntry(options, key.encode(), value.encode()))
            for provider, settings in providers:
                append_provider(options, provider, settings)
            with nogil:
                status = api.CreateSession(environment, file, options, &self.session)
            check(status)
        finally:
            api.ReleaseSessionOptions(options)
        check(api.CreateRunOptions(&self.quiet))
        check(api.RunOptionsSetRunLogSeverityLevel(self.quiet, ORT_LOGGING_LEVEL_FATAL))
        self.providers = tuple(dict.fromkeys([*(provider for provider, _ in providers), CPU]))
        self.inputs = tensors_of(self.session, False)
        self.outputs = tensors_of(self.session, True)
        self.indexes = {info.name: index for index, info in enumerate(self.inputs)}

    @staticmethod
    def refusal(provider: str) -> str:
        """Why the provider cannot be had here: its libraries or its device are missing, or it is not built in. ""
        where it can. Raises LibraryError without ONNX Runtime."""
        cdef OrtSessionOptions *options = NULL
        load()
        check(api.CreateSessionOptions(&options))
        try:
            append_provider(options, provider, {})
        except OrtError as error:
            return str(error)
        finally:
            api.ReleaseSessionOptions(options)
        return ""

    def __dealloc__(self):
        if self.quiet != NULL:
            api.ReleaseRunOptions(self.quiet)
        if self.session != NULL:
            with nogil:                               # giving back the memory of a large model takes a while
                api.ReleaseSession(self.session)

    cdef OrtStatus *execute(self, const char *const *names, const OrtValue *const *values, size_t count,
                            const char *const *result_names, size_t result_count, OrtValue **results) noexcept nogil:
        return api.Run(self.session, self.quiet, names, values, count, result_names, result_count, results)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, ndarray]) -> list[ndarray]:
        """The named outputs for the inputs `feeds`, which are stored as DTYPES says; strings may be bytes or str, and
        come back as str. Raises OrtError, KeyError for a name that is no input, ValueError for an array of another
        type and for an input that is missing."""
        cdef Feeds fed = Feeds.__new__(Feeds)
        cdef Results results = Results.__new__(Results)
        cdef OrtStatus *status
        for info in self.inputs:                  # ONNX Runtime itself would say so from within some node
            if info.name not in feeds:
                raise ValueError(f"input '{info.name}' is missing")
        fed.reserve(len(feeds))
        for name, array in feeds.items():
            fed.add(self.inputs[self.indexes[name]], array)
        results.reserve([name.encode() for name in outputs])
        with nogil:
            status = self.execute(
                fed.names, <const OrtValue *const *>fed.values, fed.count, results.names, results.count, results.values)
        check(status)
        return [results.array(i) for i in range(len(outputs))]


cdef class Feeds:
    """Inputs of one run: values over the memory of arrays, which are held meanwhile."""
    cdef size_t count, room
    cdef const char **names
    cdef OrtValue **values
    cdef Py_buffer *buffers
    cdef list held

    def __cinit__(self):
        self.held = []

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.room):
            if self.values != NULL and self.values[i] != NULL:
                api.ReleaseValue(self.values[i])
            if self.buffers != NULL:                  # releasing an empty one does nothing
                PyBuffer_Release(&self.buffers[i])
        free(self.names)
        free(self.values)
        free(self.buffers)

    cdef int reserve(self, size_t room) except -1:
        self.names = <const char **>calloc(room + 1, sizeof(char *))
        self.values = <OrtValue **>calloc(room + 1, sizeof(OrtValue *))
        self.buffers = <Py_buffer *>calloc(room + 1, sizeof(Py_buffer))
        if self.names == NULL or self.values == NULL or self.buffers == NULL:
            raise MemoryError
        self.room = room
        return 0

    cdef int add(self, info, array) except -1:
        cdef int64_t dimensions[64]
        cdef size_t i = self.count, rank = array.ndim
        cdef bytes name = info.name.encode()
        cdef Py_buffer *buffer = &self.buffers[i]
        dtype = DTYPES.get(info.element)
        if dtype is None or array.dtype != dtype:
            raise ValueError(f"input '{info.name}': expected an array of {dtype}, got {array.dtype}")
        if rank > 64:
            raise ValueError(f"input '{info.name}': {rank} dimensions are too many")
        for axis in range(rank):
            dimensions[axis] = array.shape[axis]
        self.held.append(name)
        self.names[i] = PyBytes_AS_STRING(name)
        if info.element == ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING:
            self.values[i] = string_tensor(dimensions, rank, array)
        else:
            PyObject_GetBuffer(np.ascontiguousarray(array), buffer, PyBUF_C_CONTIGUOUS)
            check(api.CreateTensorWithDataAsOrtValue(
                host_memory, buffer.buf, buffer.len, dimensions, rank,
                <ONNXTensorElementDataType><int>info.element, &self.values[i]))
        self.count += 1
        return 0


cdef OrtValue *string_tensor(const int64_t *dimensions, size_t rank, array) except NULL:
    cdef OrtAllocator *allocator = NULL
    cdef OrtValue *value = NULL
    cdef char *into = NULL
    cdef size_t i = 0
    cdef bytes text
    check(api.GetAllocatorWithDefaultOptions(&allocator))
    check(api.CreateTensorAsOrtValue(allocator, dimensions, rank, ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING, &value))
    try:
        for element in array.flat:
            text = element if isinstance(element, bytes) else element.encode(errors="surrogateescape")
            check(api.GetResizedStringTensorElementBuffer(value, i, len(text), &into))
            memcpy(into, PyBytes_AS_STRING(text), len(text))
            i += 1
    except BaseException:
        api.ReleaseValue(value)
        raise
    return value


cdef class Results:
    """Outputs of one run."""
    cdef size_t count
    cdef list held
    cdef const char **names
    cdef OrtValue **values

    def __dealloc__(self):
        cdef size_t i
        if self.values != NULL:
            for i in range(self.count):
                if self.values[i] != NULL:
                    api.ReleaseValue(self.values[i])
        free(self.names)
        free(self.values)

    cdef int reserve(self, list names) except -1:
        cdef size_t i
        self.names = <const char **>calloc(len(names) + 1, sizeof(char *))
        self.values = <OrtValue **>calloc(len(names) + 1, sizeof(OrtValue *))
        if self.names == NULL or self.values == NULL:
            raise MemoryError
        self.held = names
        self.count = len(names)
        for i in range(self.count):
            self.names[i] = PyBytes_AS_STRING(names[i])
        return 0

    cdef object array(self, size_t i):
        cdef OrtTensorTypeAndShapeInfo *info = NULL
        cdef ONNXTensorElementDataType element
        cdef int64_t dimensions[64]
        cdef size_t rank = 0, count = 0
        cdef void *data = NULL
        cdef Py_buffer buffer
        cdef int is_tensor = 0
        check(api.IsTensor(self.values[i], &is_tensor))
        if not is_tensor:
            raise OrtError(f"output '{self.held[i].decode()}' is no tensor")
        check(api.GetTensorTypeAndShape(self.values[i], &info))
        try:
            check(api.GetTensorElementType(info, &element))
            check(api.GetTensorShapeElementCount(info, &count))
            check(api.GetDimensionsCount(info, &rank))
            if rank > 64:
                raise OrtError(f"output '{self.held[i].decode()}' has {rank} dimensions")
            check(api.GetDimensions(info, dimensions, rank))
        finally:
            api.ReleaseTensorTypeAndShapeInfo(info)
        shape = tuple([dimensions[axis] for axis in range(rank)])
        if element == ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING:
            made = np.empty(count, object)
            made[:] = [string_at(self.values[i], index) for index in range(count)]
            return made.reshape(shape)
        dtype = DTYPES.get(<int>element)
        if dtype is None:
            raise OrtError(f"output '{self.held[i].decode()}' has elements of type {<int>element}")
        made = np.empty(shape, dtype)
        if count:
            check(api.GetTensorMutableData(self.values[i], &data))
            PyObject_GetBuffer(made, &buffer, PyBUF_C_CONTIGUOUS)
            with nogil:
                memcpy(buffer.buf, data, buffer.len)
            PyBuffer_Release(&buffer)
        return made


cdef str string_at(const OrtValue *value, size_t index):
    cdef size_t size = 0
    cdef bytes text
    check(api.GetStringTensorElementLength(value, index, &size))
    text = PyBytes_FromStringAndSize(NULL, size)  # a new one: a literal may be one that others have, too
    check(api.GetStringTensorElement(value, size, index, PyBytes_AS_STRING(text)))
    return text.decode(errors="surrogateescape")


cdef tuple tensors_of(OrtSession *session, bint outputs):
    cdef size_t count = 0, i
    cdef OrtAllocator *allocator = NULL
    cdef OrtTypeInfo *info = NULL
    cdef char *name = NULL
    check(api.GetAllocatorWithDefaultOptions(&allocator))
    check(api.SessionGetOutputCount(session, &count) if outputs else api.SessionGetInputCount(session, &count))
    found = []
    for i in range(count):
        if outputs:
            check(api.SessionGetOutputName(session, i, allocator, &name))
        else:
            check(api.SessionGetInputName(session, i, allocator, &name))
        try:
            text = (<bytes>name).decode()
        finally:
            check(api.AllocatorFree(allocator, name))
        if outputs:
            check(api.SessionGetOutputTypeInfo(session, i, &info))
        else:
            check(api.SessionGetInputTypeInfo(session, i, &info))
        try:
            found.append(tensor_info(text, info))
        finally:
            api.ReleaseTypeInfo(info)
    return tuple(found)


cdef object tensor_info(str name, const OrtTypeInfo *info):
    cdef ONNXType kind
    cdef const OrtTensorTypeAndShapeInfo *tensor = NULL
    cdef ONNXTensorElementDataType element
    cdef int64_t dimensions[64]
    cdef const char *symbols[64]
    cdef size_t rank = 0, axis
    check(api.GetOnnxTypeFromTypeInfo(info, &kind))
    if kind != ONNX_TYPE_TENSOR:
        return TensorInfo(name, KINDS.get(<int>kind, f"kind {<int>kind}"), 0, (), ())
    check(api.CastTypeInfoToTensorInfo(info, &tensor))
    check(api.GetTensorElementType(tensor, &element))
    check(api.GetDimensionsCount(tensor, &rank))
    if rank > 64:
        raise OrtError(f"'{name}' has {rank} dimensions")
    check(api.GetDimensions(tensor, dimensions, rank))
    check(api.GetSymbolicDimensions(tensor, symbols, rank))
    return TensorInfo(
        name, "tensor", <int>element, tuple([max(dimensions[axis], -1) for axis in range(rank)]),
        tuple([(<bytes>symbols[axis]).decode() for axis in range(rank)]),
    )


cdef int append_provider(OrtSessionOptions *options, str provider, dict settings) except -1:
    """Raises OrtError when the provider, its libraries or its device is missing."""
    cdef OrtCUDAProviderOptionsV2 *cuda = NULL
    cdef OrtTensorRTProviderOptionsV2 *tensorrt = NULL
    cdef Words words = Words.__new__(Words)
    words.take(settings)
    if provider == CPU:
        return 0
    if provider == CUDA:
        check(api.CreateCUDAProviderOptions(&cuda))
        try:
            check(api.UpdateCUDAProviderOptions(cuda, words.keys, words.values, words.count))
            check(api.SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda))
        finally:
            api.ReleaseCUDAProviderOptions(cuda)
    elif provider == TENSORRT:
        check(api.CreateTensorRTProviderOptions(&tensorrt))
        try:
            check(api.UpdateTensorRTProviderOptions(tensorrt, words.keys, words.values, words.count))
            check(api.SessionOptionsAppendExecutionProvider_TensorRT_V2(options, tensorrt))
        finally:
            api.ReleaseTensorRTProviderOptions(tensorrt)
    else:
        raise OrtError(f"{provider} is no execution provider that is known here", True)
    return 0


cdef class Words:
    """Keys and values as the C API takes them."""
    cdef size_t count
    cdef const char **keys
    cdef const char **values
    cdef list held

    def __dealloc__(self):
        free(self.keys)
        free(self.values)

    cdef int take(self, dict settings) except -1:
        cdef size_t i = 0
        self.keys = <const char **>calloc(len(settings) + 1, sizeof(char *))
        self.values = <const char **>calloc(len(settings) + 1, sizeof(char *))
        if self.keys == NULL or self.values == NULL:
            raise MemoryError
        self.held = []
        for key, value in settings.items():
            pair = (str(key).encode(), str(value).encode())
            self.held.append(pair)
            self.keys[i] = PyBytes_AS_STRING(pair[0])
            self.values[i] = PyBytes_AS_STRING(pair[1])
            i += 1
        self.count = i
        return 0
