"""What is used of nghttp2 (1.52 or later): its decoder of header blocks (RFC 7541), its fields, its check
of authorities."""

from libc.stdint cimport uint8_t


cdef extern from "<nghttp2/nghttp2.h>" nogil:
    ctypedef struct nghttp2_hd_inflater:
        pass
    ctypedef struct nghttp2_nv:
        uint8_t *name
        uint8_t *value
        size_t namelen
        size_t valuelen
        uint8_t flags

    enum:
        NGHTTP2_NV_FLAG_NONE
        NGHTTP2_NV_FLAG_NO_INDEX
        NGHTTP2_NV_FLAG_NO_COPY_NAME
        NGHTTP2_ERR_NOMEM
        NGHTTP2_HD_INFLATE_EMIT
        NGHTTP2_HD_INFLATE_FINAL

    int nghttp2_hd_inflate_new(nghttp2_hd_inflater **inflater)
    void nghttp2_hd_inflate_del(nghttp2_hd_inflater *inflater)
    ssize_t nghttp2_hd_inflate_hd2(nghttp2_hd_inflater *inflater, nghttp2_nv *field, int *flags, const uint8_t *data,
                                   size_t size, int last)
    int nghttp2_hd_inflate_end_headers(nghttp2_hd_inflater *inflater)
    int nghttp2_check_authority(const uint8_t *value, size_t size)
