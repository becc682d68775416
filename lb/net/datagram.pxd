"""Batches of datagrams and the addresses of both ends: see datagram.h for the contract."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_TRUNC
    struct msghdr:
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len


cdef extern from "datagram.h" nogil:
    enum:
        TG_BATCH
        TG_LAST
        TG_DATAGRAM_MAX
    # enum tg_failure
    enum:
        TG_FAIL_FULL
        TG_FAIL_PEER
        TG_FAIL_OTHER
    ctypedef struct tg_flow_key:
        unsigned char address[16]
        unsigned char local[16]
        uint32_t scope
        uint16_t port
        uint16_t family
        uint32_t endpoint
    ctypedef struct tg_requests:
        mmsghdr messages[64]
        unsigned char next[64]
        void *touched[64]
    ctypedef struct tg_train:
        pass
    ctypedef struct tg_answers:
        mmsghdr reads[64]
        mmsghdr writes[64]
        unsigned int slot
        unsigned int used

    int tg_failure_of(int error) noexcept
    bint tg_flow_same(const tg_flow_key *a, const tg_flow_key *b) noexcept
    int tg_flow_text(const tg_flow_key *key, char *into) noexcept
    bint tg_flow_mapped(const tg_flow_key *key) noexcept
    bint tg_flow_local_unknown(const tg_flow_key *key) noexcept
    int tg_flow_port(const tg_flow_key *key) noexcept
    uint64_t tg_network_of(const tg_flow_key *key, uint32_t *family) noexcept

    int tg_requests_open(tg_requests *r) noexcept
    void tg_requests_close(tg_requests *r) noexcept
    int tg_requests_receive(tg_requests *r, int fd, size_t limit) noexcept
    void tg_request_reset(tg_requests *r, unsigned int i) noexcept
    int tg_request_key(tg_requests *r, unsigned int i, bint wildcard, tg_flow_key *key) noexcept

    const unsigned char *tg_request_data(const tg_requests *r, unsigned int i) noexcept
    const unsigned char *tg_answer_data(const tg_answers *a, unsigned int i) noexcept

    void tg_train_add(
        tg_train *t, unsigned int at, const tg_requests *r, unsigned int i, void *front, size_t size) noexcept
    size_t tg_train_size(const tg_train *t, unsigned int first, unsigned int end) noexcept
    int tg_train_send(tg_train *t, int fd, unsigned int first, unsigned int end) noexcept

    int tg_answers_open(tg_answers *a) noexcept
    void tg_answers_close(tg_answers *a) noexcept
    int tg_answers_receive(tg_answers *a, int fd, unsigned int want, size_t limit) noexcept
    void tg_answer_put(tg_answers *a, unsigned int i, const tg_flow_key *key, bint wildcard) noexcept
    size_t tg_answers_size(const tg_answers *a, unsigned int first, unsigned int end) noexcept
    int tg_answers_send(tg_answers *a, int fd, unsigned int first) noexcept

    int tg_datagram_socket(int family) noexcept
    int tg_datagram_join(int fd, const void *address, uint32_t length) noexcept
    int tg_datagram_connect(int family, const void *address, uint32_t length) noexcept
    int tg_datagram_prepare(int fd, int *wildcard, tg_flow_key *own) noexcept
