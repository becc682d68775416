"""Inferences that are run together: see batch.pxd."""

from libc.stdlib cimport calloc, free
from backend.ort.c_api cimport OrtValue
from backend.ort.library cimport api
from lb.net.link cimport link_init


cdef tg_batch *batch_new(const tg_model *model, int wanted_count) noexcept:
    cdef int count = model.fed_count + wanted_count + model.state_count
    # One piece of memory, in the order of what needs most alignment.
    cdef tg_batch *batch = <tg_batch *>calloc(
        1, sizeof(tg_batch) + count * (sizeof(char *) + sizeof(OrtValue *)) + model.fed_count * sizeof(void *)
        + wanted_count * sizeof(tg_result) + model.state_count * sizeof(int))
    if batch == NULL:
        return NULL
    batch.names = <const char **>(batch + 1)
    batch.values = <OrtValue **>(batch.names + count)
    batch.copies = <void **>(batch.values + count)
    batch.results = <tg_result *>(batch.copies + model.fed_count)
    batch.state_at = <int *>(batch.results + wanted_count)
    batch.model = model
    batch.wanted_count = wanted_count
    batch.references = 1
    batch.link.owner = batch
    link_init(&batch.members)
    return batch


cdef void batch_drop_inputs(tg_batch *batch) noexcept nogil:
    cdef int i
    for i in range(batch.model.fed_count):
        if batch.values[i] != NULL:
            api.ReleaseValue(batch.values[i])
            batch.values[i] = NULL
        free(batch.copies[i])
        batch.copies[i] = NULL


cdef void batch_release(void *given) noexcept:
    cdef tg_batch *batch = <tg_batch *>given
    cdef int i
    batch.references -= 1
    if batch.references:
        return
    batch_drop_inputs(batch)
    for i in range(batch.wanted_count + batch.model.state_count):
        if batch.values[batch.model.fed_count + i] != NULL:
            api.ReleaseValue(batch.values[batch.model.fed_count + i])
    for i in range(batch.wanted_count):
        free(batch.results[i].shape)
        free(batch.results[i].ends)
        free(batch.results[i].text)
    if batch.status != NULL:
        api.ReleaseStatus(batch.status)
    if batch.options != NULL:
        api.ReleaseRunOptions(batch.options)
    free(batch)
