"""ONNX Runtime's library, loaded once in a process.

The pip packages `onnxruntime` and `onnxruntime-gpu` have the library beside their Python module, which is another copy
of the runtime and is not loaded. The library is opened by its path, so no package is needed when Tidegate is built; the
C API is versioned, so a newer library serves what this module was compiled for.

Builds from 1.32 on send telemetry unless the environment says otherwise as they are loaded (Privacy.md of ONNX
Runtime): the variable is set first. `ORT_DISABLE_TELEMETRY=0` in the process's own environment leaves telemetry on.
"""

from backend.ort.c_api cimport (
    ORT_API_VERSION, ORT_INVALID_ARGUMENT, ORT_LOGGING_LEVEL_ERROR, OrtApiBase, OrtArenaAllocator, OrtMemTypeDefault,
    OrtStatus,
)

cdef extern from "<dlfcn.h>" nogil:
    enum:
        RTLD_LAZY
        RTLD_LOCAL
    void *dlopen(const char *path, int flags)
    void *dlsym(void *handle, const char *name)
    int dlclose(void *handle)
    char *dlerror()

import os
from importlib.util import find_spec
from pathlib import Path

from backend.ort.errors import LibraryError, OrtError

ctypedef const OrtApiBase *(*get_api_base)() noexcept nogil

SWITCH = "ORT_DISABLE_TELEMETRY"
PACKAGE = "onnxruntime"

api = NULL
environment = NULL
host_memory = NULL
cdef str LOADED = ""                  # version of the library that was loaded


cdef str text_of(OrtStatus *status):
    cdef bytes text = api.GetErrorMessage(status)
    api.ReleaseStatus(status)
    return " ".join(text.decode(errors="replace").split())


cdef int check(OrtStatus *status) except -1:
    cdef bint invalid
    if status == NULL:
        return 0
    invalid = api.GetErrorCode(status) == ORT_INVALID_ARGUMENT
    raise OrtError(text_of(status), invalid)


def library_path() -> Path:
    """The library of the installed package. Raises LibraryError."""
    package = find_spec(PACKAGE)
    if package is None:
        raise LibraryError(f"the package {PACKAGE} is not installed")
    for folder in package.submodule_search_locations or ():
        found = sorted((Path(folder) / "capi").glob("libonnxruntime.so*"))
        if found:
            return found[0]
    raise LibraryError(f"this build of {PACKAGE} has no libonnxruntime.so")


def load(path: Path | None = None) -> str:
    """Loads the library, by default the installed package's; its version. A second call does nothing.

    Raises LibraryError when there is none, or it is older than the API that this module was compiled for.
    """
    global LOADED
    if not LOADED:
        if os.environ.get(SWITCH) != "0":
            os.environ[SWITCH] = "1"
        LOADED = start(library_path() if path is None else path)
    return LOADED


cdef str start(path):
    global api, environment, host_memory
    cdef bytes name = os.fsencode(path), version
    cdef void *handle = dlopen(name, RTLD_LAZY | RTLD_LOCAL)
    cdef get_api_base base
    if handle == NULL:
        raise LibraryError(dlerror().decode(errors="replace"))
    base = <get_api_base>dlsym(handle, b"OrtGetApiBase")
    if base == NULL:
        dlclose(handle)
        raise LibraryError(f"{path} is no ONNX Runtime: it has no OrtGetApiBase")
    version = base().GetVersionString()
    api = base().GetApi(ORT_API_VERSION)
    if api == NULL:
        dlclose(handle)
        raise LibraryError(f"ONNX Runtime {version.decode()} is too old: it has no API {ORT_API_VERSION}")
    # From here on the library stays: its threads cannot be taken back.
    check(api.CreateEnv(ORT_LOGGING_LEVEL_ERROR, b"tidegate", &environment))
    if os.environ.get(SWITCH) != "0":
        check(api.DisableTelemetryEvents(environment))
    check(api.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &host_memory))
    return version.decode()


def available_providers() -> list[str]:
    """The execution providers that the library was built with, best first, by ONNX Runtime's names. One of them may
    still lack its own libraries or its device."""
    cdef char **names = NULL
    cdef int count = 0, i
    load()
    check(api.GetAvailableProviders(&names, &count))
    try:
        return [(<bytes>names[i]).decode() for i in range(count)]
    finally:
        check(api.ReleaseAvailableProviders(names, count))
