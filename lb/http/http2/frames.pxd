"""The frames of HTTP/2 on the wire (RFC 9113 section 4.1 and section 6), and the codes of section 7."""

from libc.stdint cimport int32_t, uint8_t, uint32_t


cdef extern from *:
    """
    #define TG_HTTP2_PREFACE "PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n"
    """
    const char *PREFACE "TG_HTTP2_PREFACE"    # what a client's connection begins with (section 3.4)

cdef enum:
    PREFACE_SIZE = 24
    FRAME_HEADER = 9                  # bytes
    FRAME_MOST = 16384                # bytes of a payload: SETTINGS_MAX_FRAME_SIZE stays at its initial value
    WINDOW_MOST = 0x7FFFFFFF
    WINDOW_FIRST = 65535              # until SETTINGS say otherwise
    STREAM_MOST = 0x7FFFFFFF

    FRAME_DATA = 0
    FRAME_HEADERS = 1
    FRAME_PRIORITY = 2
    FRAME_RST_STREAM = 3
    FRAME_SETTINGS = 4
    FRAME_PUSH_PROMISE = 5
    FRAME_PING = 6
    FRAME_GOAWAY = 7
    FRAME_WINDOW_UPDATE = 8
    FRAME_CONTINUATION = 9
    # Of our own, between a worker and a model server on one machine (docs/adr/local-transport.md). Numbers from 0xf0 on
    # are for experiments (RFC 7540 section 11.2), and unknown frames are ignored.
    FRAME_LOCAL_ARENA = 0xF1          # a descriptor of the sender's arena has come; FLAG_ACK: it is mapped
    FRAME_LOCAL_DATA = 0xF2           # a DATA frame whose payload is in the arena: offset, size (4 bytes each)
    FRAME_LOCAL_RELEASE = 0xF3        # what began at that offset is read

    FLAG_END_STREAM = 1
    FLAG_ACK = 1
    FLAG_END_HEADERS = 4
    FLAG_PADDED = 8
    FLAG_PRIORITY = 32
    PRIORITY_SIZE = 5                 # bytes of what nobody looks at any more

    SETTING_SIZE = 6                  # bytes of one
    SETTING_HEADER_TABLE_SIZE = 1
    SETTING_ENABLE_PUSH = 2
    SETTING_MAX_CONCURRENT_STREAMS = 3
    SETTING_INITIAL_WINDOW_SIZE = 4
    SETTING_MAX_FRAME_SIZE = 5
    SETTING_MAX_HEADER_LIST_SIZE = 6
    SETTING_ENABLE_CONNECT_PROTOCOL = 8
    SETTING_LOCAL_TRANSPORT = 0xF7D0  # of our own: the version of it that a server speaks
    LOCAL_VERSION = 1

    H2_NO_ERROR = 0
    H2_PROTOCOL_ERROR = 1
    H2_INTERNAL_ERROR = 2
    H2_FLOW_CONTROL_ERROR = 3
    H2_STREAM_CLOSED = 5
    H2_FRAME_SIZE_ERROR = 6
    H2_REFUSED_STREAM = 7
    H2_CANCEL = 8
    H2_COMPRESSION_ERROR = 9
    H2_ENHANCE_YOUR_CALM = 11


ctypedef struct h2_frame:
    uint32_t length                   # of the payload
    uint8_t kind
    uint8_t flags
    int32_t id                        # of the stream; 0 = the connection's


cdef inline uint32_t get_u32(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline void put_u32(uint8_t *at, uint32_t number) noexcept nogil:
    at[0] = <uint8_t>(number >> 24)
    at[1] = <uint8_t>(number >> 16)
    at[2] = <uint8_t>(number >> 8)
    at[3] = <uint8_t>number


cdef inline void get_frame(h2_frame *frame, const uint8_t *at) noexcept nogil:
    frame.length = <uint32_t>at[0] << 16 | <uint32_t>at[1] << 8 | at[2]
    frame.kind = at[3]
    frame.flags = at[4]
    frame.id = <int32_t>(get_u32(at + 5) & STREAM_MOST)


cdef inline void put_frame(uint8_t *at, uint32_t length, uint8_t kind, uint8_t flags, int32_t id) noexcept nogil:
    at[0] = <uint8_t>(length >> 16)
    at[1] = <uint8_t>(length >> 8)
    at[2] = <uint8_t>length
    at[3] = kind
    at[4] = flags
    put_u32(at + 5, <uint32_t>id)


# Leaves what stands before the padding (section 6.1). False: there is more padding than frame.
cdef inline bint skip_padding(const h2_frame *frame, const uint8_t **payload, uint32_t *size) noexcept nogil:
    cdef uint32_t padding
    if not frame.flags & FLAG_PADDED:
        return True
    if size[0] < 1 or payload[0][0] >= size[0]:
        return False
    padding = payload[0][0]
    payload[0] += 1
    size[0] -= 1 + padding
    return True
