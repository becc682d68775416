"""What is used of ONNX Runtime's C API (onnxruntime_c_api.h). A function that returns a status has failed if it is not
NULL; the status is the caller's to release."""

from libc.stdint cimport int64_t, uint32_t


cdef extern from "onnxruntime_c_api.h" nogil:
    enum:
        ORT_API_VERSION

    ctypedef enum OrtErrorCode:
        ORT_INVALID_ARGUMENT

    ctypedef enum OrtLoggingLevel:
        ORT_LOGGING_LEVEL_ERROR
        ORT_LOGGING_LEVEL_FATAL

    ctypedef enum OrtAllocatorType:
        OrtArenaAllocator

    ctypedef enum OrtMemType:
        OrtMemTypeDefault

    ctypedef enum ONNXType:
        ONNX_TYPE_TENSOR

    ctypedef enum ONNXTensorElementDataType:
        ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING

    ctypedef enum GraphOptimizationLevel:
        pass

    ctypedef struct OrtStatus
    ctypedef struct OrtEnv
    ctypedef struct OrtSession
    ctypedef struct OrtSessionOptions
    ctypedef struct OrtRunOptions
    ctypedef struct OrtAllocator
    ctypedef struct OrtMemoryInfo
    ctypedef struct OrtValue
    ctypedef struct OrtTypeInfo
    ctypedef struct OrtTensorTypeAndShapeInfo
    ctypedef struct OrtCUDAProviderOptionsV2
    ctypedef struct OrtTensorRTProviderOptionsV2

    ctypedef struct OrtApi:
        OrtErrorCode (*GetErrorCode)(const OrtStatus *) noexcept nogil
        const char *(*GetErrorMessage)(const OrtStatus *) noexcept nogil
        void (*ReleaseStatus)(OrtStatus *) noexcept nogil

        OrtStatus *(*CreateEnv)(OrtLoggingLevel, const char *, OrtEnv **) noexcept nogil
        OrtStatus *(*DisableTelemetryEvents)(const OrtEnv *) noexcept nogil
        OrtStatus *(*GetAvailableProviders)(char ***, int *) noexcept nogil
        OrtStatus *(*ReleaseAvailableProviders)(char **, int) noexcept nogil

        OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **) noexcept nogil
        OrtStatus *(*SetIntraOpNumThreads)(OrtSessionOptions *, int) noexcept nogil
        OrtStatus *(*SetInterOpNumThreads)(OrtSessionOptions *, int) noexcept nogil
        OrtStatus *(*SetOptimizedModelFilePath)(OrtSessionOptions *, const char *) noexcept nogil
        OrtStatus *(*SetSessionGraphOptimizationLevel)(OrtSessionOptions *, GraphOptimizationLevel) noexcept nogil
        OrtStatus *(*SetSessionLogSeverityLevel)(OrtSessionOptions *, int) noexcept nogil
        OrtStatus *(*AddSessionConfigEntry)(OrtSessionOptions *, const char *, const char *) noexcept nogil
        OrtStatus *(*CreateCUDAProviderOptions)(OrtCUDAProviderOptionsV2 **) noexcept nogil
        OrtStatus *(*UpdateCUDAProviderOptions)(
            OrtCUDAProviderOptionsV2 *, const char *const *, const char *const *, size_t) noexcept nogil
        OrtStatus *(*SessionOptionsAppendExecutionProvider_CUDA_V2)(
            OrtSessionOptions *, const OrtCUDAProviderOptionsV2 *) noexcept nogil
        void (*ReleaseCUDAProviderOptions)(OrtCUDAProviderOptionsV2 *) noexcept nogil
        OrtStatus *(*CreateTensorRTProviderOptions)(OrtTensorRTProviderOptionsV2 **) noexcept nogil
        OrtStatus *(*UpdateTensorRTProviderOptions)(OrtTensorRTProviderOptionsV2 *, const char *const *,
                                                    const char *const *, size_t) noexcept nogil
        OrtStatus *(*SessionOptionsAppendExecutionProvider_TensorRT_V2)(
            OrtSessionOptions *, const OrtTensorRTProviderOptionsV2 *) noexcept nogil
        void (*ReleaseTensorRTProviderOptions)(OrtTensorRTProviderOptionsV2 *) noexcept nogil
        void (*ReleaseSessionOptions)(OrtSessionOptions *) noexcept nogil

        OrtStatus *(*CreateSession)(
            const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **) noexcept nogil
        OrtStatus *(*SessionGetInputCount)(const OrtSession *, size_t *) noexcept nogil
        OrtStatus *(*SessionGetOutputCount)(const OrtSession *, size_t *) noexcept nogil
        OrtStatus *(*SessionGetInputName)(const OrtSession *, size_t, OrtAllocator *, char **) noexcept nogil
        OrtStatus *(*SessionGetOutputName)(const OrtSession *, size_t, OrtAllocator *, char **) noexcept nogil
        OrtStatus *(*SessionGetInputTypeInfo)(const OrtSession *, size_t, OrtTypeInfo **) noexcept nogil
        OrtStatus *(*SessionGetOutputTypeInfo)(const OrtSession *, size_t, OrtTypeInfo **) noexcept nogil
        OrtStatus *(*Run)(OrtSession *, const OrtRunOptions *, const char *const *, const OrtValue *const *, size_t,
                          const char *const *, size_t, OrtValue **) noexcept nogil
        void (*ReleaseSession)(OrtSession *) noexcept nogil
        OrtStatus *(*CreateRunOptions)(OrtRunOptions **) noexcept nogil
        OrtStatus *(*RunOptionsSetRunLogSeverityLevel)(OrtRunOptions *, int) noexcept nogil
        OrtStatus *(*RunOptionsSetTerminate)(OrtRunOptions *) noexcept nogil
        void (*ReleaseRunOptions)(OrtRunOptions *) noexcept nogil

        OrtStatus *(*GetAllocatorWithDefaultOptions)(OrtAllocator **) noexcept nogil
        OrtStatus *(*AllocatorFree)(OrtAllocator *, void *) noexcept nogil
        OrtStatus *(*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo **) noexcept nogil

        OrtStatus *(*GetOnnxTypeFromTypeInfo)(const OrtTypeInfo *, ONNXType *) noexcept nogil
        OrtStatus *(*CastTypeInfoToTensorInfo)(const OrtTypeInfo *, const OrtTensorTypeAndShapeInfo **) noexcept nogil
        void (*ReleaseTypeInfo)(OrtTypeInfo *) noexcept nogil
        OrtStatus *(*GetTensorElementType)(
            const OrtTensorTypeAndShapeInfo *, ONNXTensorElementDataType *) noexcept nogil
        OrtStatus *(*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo *, size_t *) noexcept nogil
        OrtStatus *(*GetDimensions)(const OrtTensorTypeAndShapeInfo *, int64_t *, size_t) noexcept nogil
        OrtStatus *(*GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo *, const char **, size_t) noexcept nogil
        OrtStatus *(*GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo *, size_t *) noexcept nogil
        void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo *) noexcept nogil

        OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t,
                                                     ONNXTensorElementDataType, OrtValue **) noexcept nogil
        OrtStatus *(*CreateTensorAsOrtValue)(OrtAllocator *, const int64_t *, size_t, ONNXTensorElementDataType,
                                             OrtValue **) noexcept nogil
        OrtStatus *(*FillStringTensorElement)(OrtValue *, const char *, size_t) noexcept nogil
        OrtStatus *(*GetResizedStringTensorElementBuffer)(OrtValue *, size_t, size_t, char **) noexcept nogil
        OrtStatus *(*GetStringTensorElementLength)(const OrtValue *, size_t, size_t *) noexcept nogil
        OrtStatus *(*GetStringTensorElement)(const OrtValue *, size_t, size_t, void *) noexcept nogil
        OrtStatus *(*GetStringTensorDataLength)(const OrtValue *, size_t *) noexcept nogil
        OrtStatus *(*GetStringTensorContent)(const OrtValue *, void *, size_t, size_t *, size_t) noexcept nogil
        OrtStatus *(*IsTensor)(const OrtValue *, int *) noexcept nogil
        OrtStatus *(*GetTensorTypeAndShape)(const OrtValue *, OrtTensorTypeAndShapeInfo **) noexcept nogil
        OrtStatus *(*GetTensorMutableData)(OrtValue *, void **) noexcept nogil
        void (*ReleaseValue)(OrtValue *) noexcept nogil

    ctypedef struct OrtApiBase:
        const OrtApi *(*GetApi)(uint32_t) noexcept nogil
        const char *(*GetVersionString)() noexcept nogil
