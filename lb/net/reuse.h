/* Objects that come and go with every request: their memory is kept in a list by type, as the interpreter does with its
   own small objects, instead of going through its collector's allocator and malloc each time.

   For types of Cython without weak references and __dict__, whose objects are only used with the GIL held. */
#ifndef TIDEGATE_REUSE_H
#define TIDEGATE_REUSE_H

#include <Python.h>
#include <string.h>

enum {
    TG_REUSE_TYPES = 4, /* of one module */
    TG_REUSE_KEPT = 256 /* objects of each type */
};

/* The memory of an object that is gone has the next one's address where its type was. */
static struct tg_reuse {
    PyTypeObject *type;
    PyObject *free;
    int kept;
} tg_reused[TG_REUSE_TYPES];

static inline struct tg_reuse *tg_reuse_of(PyTypeObject *type) {
    for (int i = 0; i < TG_REUSE_TYPES && tg_reused[i].type; i++)
        if (tg_reused[i].type == type)
            return &tg_reused[i];
    return NULL; /* a type that is derived from one of them */
}

static PyObject *tg_reuse_alloc(PyTypeObject *type, Py_ssize_t items) {
    struct tg_reuse *reuse = tg_reuse_of(type);
    if (!reuse || !reuse->free)
        return PyType_GenericAlloc(type, items);
    PyObject *object = reuse->free;
    reuse->free = (PyObject *)object->ob_type;
    reuse->kept--;
    memset(object, 0, (size_t)type->tp_basicsize);
    PyObject_Init(object, type);
    PyObject_GC_Track(object);
    return object;
}

static void tg_reuse_free(void *memory) {
    PyObject *object = (PyObject *)memory;
    struct tg_reuse *reuse = tg_reuse_of(Py_TYPE(object));
    if (!reuse || reuse->kept == TG_REUSE_KEPT) {
        PyObject_GC_Del(object);
        return;
    }
    PyObject_GC_UnTrack(object);
    object->ob_type = (PyTypeObject *)reuse->free;
    reuse->free = object;
    reuse->kept++;
}

/* The memory of objects of `type` is reused from now on. Not under a sanitizer, which has to see them come and go. */
static inline void tg_reuse(PyTypeObject *type) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(Py_TRACE_REFS)
    for (int i = 0; i < TG_REUSE_TYPES; i++)
        if (!tg_reused[i].type) {
            tg_reused[i].type = type;
            type->tp_alloc = tg_reuse_alloc;
            type->tp_free = tg_reuse_free;
            return;
        }
#else
    (void)type;
#endif
}

#endif
