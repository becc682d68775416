/* Batches of datagrams: recvmmsg(2) and sendmmsg(2) over buffers that are made once, and the addresses of both ends.
 *
 * Whoever answers a datagram that came to a socket of every address ("0.0.0.0", "[::]") must answer from the address that
 * it was sent to: clients drop what comes from another one. IP_PKTINFO and IPV6_RECVPKTINFO tell that address on the way
 * in, and the same message says it on the way out (ip(7), ipv6(7), RFC 3542 section 6).
 *
 * Functions give minus an errno for a failure; EINTR is dealt with here.
 */
#ifndef TIDEGATE_DATAGRAM_H
#define TIDEGATE_DATAGRAM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define TG_BATCH 64u
#define TG_LAST 255u             /* end of a chain of slots */
#define TG_DATAGRAM_MAX 65536u   /* no UDP datagram is longer: 65,507 bytes over IPv4, 65,527 over IPv6 */
/* From one slot's bytes to the next's. Not a power of two: the slots' beginnings, which is all that small datagrams use,
 * would fall into the same few sets of the caches. */
#define TG_SLOT (TG_DATAGRAM_MAX + 17u * 64u)

/* What became of a datagram that was not sent, or of a socket that was not made. */
enum tg_failure {
    TG_FAIL_FULL,    /* no room or no resources for now */
    TG_FAIL_PEER,    /* nobody is there: an ICMP error, or no way to the address */
    TG_FAIL_OTHER,   /* this datagram: too long, forbidden, a bad address */
};

static inline int tg_failure_of(int error) {
    switch (error) {
    case EAGAIN: case ENOBUFS: case ENOMEM: case EMFILE: case ENFILE:
        return TG_FAIL_FULL;
    case ECONNREFUSED: case EHOSTUNREACH: case ENETUNREACH: case EHOSTDOWN: case ENETDOWN: case ENOPROTOOPT:
    case ENOENT: case ECONNRESET: /* of Unix sockets: no such path, and a peer that has closed */
        return TG_FAIL_PEER;
    default:
        return TG_FAIL_OTHER;
    }
}

/* Who speaks with whom: what a session is found by. No padding, so that it can be compared and hashed as bytes. */
typedef struct {
    unsigned char address[16]; /* the client's; IPv4 in the first four bytes */
    unsigned char local[16];   /* where it sent to, if the socket has every address, else zero */
    uint32_t scope;            /* interface of a link-local IPv6 address */
    uint16_t port;             /* the client's, in network byte order */
    uint16_t family;           /* AF_INET or AF_INET6 */
    uint32_t endpoint;         /* 1 + slot of the endpoint that the datagrams name (QUIC), where another session has the flow, else 0 */
} tg_flow_key;
_Static_assert(sizeof(tg_flow_key) == 44, "tg_flow_key has padding");

static inline int tg_flow_same(const tg_flow_key *a, const tg_flow_key *b) { return !memcmp(a, b, sizeof(*a)); }

typedef union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
} tg_sockaddr;

typedef union {
    struct cmsghdr align;
    char space[CMSG_SPACE(sizeof(struct in6_pktinfo))];
} tg_control;

/* Datagrams from clients: slot i has messages[i] with its sender, its packet info and its bytes. `next` and `touched`
 * are room for sorting a batch by session: chains of slots, and the sessions that have one. */
typedef struct {
    struct mmsghdr messages[TG_BATCH];
    struct iovec parts[TG_BATCH];
    tg_sockaddr names[TG_BATCH];
    tg_control controls[TG_BATCH];
    unsigned char next[TG_BATCH];
    void *touched[TG_BATCH];
    char *data;
    size_t limit; /* bytes of a slot that are offered to the kernel */
} tg_requests;

/* Datagrams from one batch of clients to one endpoint, by their place in tg_requests. */
typedef struct {
    struct mmsghdr messages[TG_BATCH];
    struct iovec parts[TG_BATCH][2]; /* what stands in front of each, if anything, and its own bytes */
} tg_train;

/* Datagrams from endpoints on their way to clients of one socket: `reads` fill the slots one after the other, and for
 * what is passed on a write is prepared, which takes its bytes from the slot. */
typedef struct {
    struct mmsghdr reads[TG_BATCH];
    struct iovec rooms[TG_BATCH];
    struct mmsghdr writes[TG_BATCH];
    struct iovec parts[TG_BATCH];
    tg_sockaddr names[TG_BATCH];
    tg_control controls[TG_BATCH];
    char *data;
    size_t limit;
    unsigned slot; /* slots that are filled */
    unsigned used; /* writes that wait */
} tg_answers;

/* The kernel writes into the lengths; without this the next datagram in the slot would be cut. */
static inline void tg_request_reset(tg_requests *r, unsigned i) {
    r->messages[i].msg_hdr.msg_namelen = sizeof(tg_sockaddr);
    r->messages[i].msg_hdr.msg_controllen = sizeof(tg_control);
}

/* 0, or -1 when memory is out. Pages are taken when they are first written to. */
static inline int tg_requests_open(tg_requests *r) {
    memset(r, 0, sizeof(*r));
    r->data = (char *)malloc((size_t)TG_BATCH * TG_SLOT);
    if (!r->data)
        return -1;
    for (unsigned i = 0; i < TG_BATCH; i++) {
        r->parts[i].iov_base = r->data + (size_t)i * TG_SLOT;
        r->messages[i].msg_hdr.msg_name = &r->names[i];
        r->messages[i].msg_hdr.msg_iov = &r->parts[i];
        r->messages[i].msg_hdr.msg_iovlen = 1;
        r->messages[i].msg_hdr.msg_control = &r->controls[i];
        tg_request_reset(r, i);
    }
    return 0;
}

static inline void tg_requests_close(tg_requests *r) {
    free(r->data);
    r->data = NULL;
}

/* Takes at most TG_BATCH datagrams: how many. A longer one than `limit` has MSG_TRUNC in its msg_flags. */
static inline int tg_requests_receive(tg_requests *r, int fd, size_t limit) {
    int n;
    if (r->limit != limit) {
        r->limit = limit;
        for (unsigned i = 0; i < TG_BATCH; i++)
            r->parts[i].iov_len = limit;
    }
    do
        n = recvmmsg(fd, r->messages, TG_BATCH, MSG_DONTWAIT, NULL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static inline void tg_read_local(struct msghdr *message, tg_flow_key *key) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof(info));
            /* Not ipi_addr, which is a group or a broadcast address when it was sent to one: nobody may answer from it. */
            memcpy(key->local, &info.ipi_spec_dst, sizeof(info.ipi_spec_dst));
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(c), sizeof(info));
            if (!IN6_IS_ADDR_MULTICAST(&info.ipi6_addr))
                memcpy(key->local, &info.ipi6_addr, sizeof(info.ipi6_addr));
        }
    }
}

/* The flow that the datagram in slot i is of; `wildcard` says that the socket has every address. -1: nobody to answer. */
static inline int tg_request_key(tg_requests *r, unsigned i, int wildcard, tg_flow_key *key) {
    const tg_sockaddr *from = &r->names[i];
    memset(key, 0, sizeof(*key));
    if (from->any.sa_family == AF_INET) {
        memcpy(key->address, &from->v4.sin_addr, sizeof(from->v4.sin_addr));
        key->port = from->v4.sin_port;
    } else if (from->any.sa_family == AF_INET6) {
        memcpy(key->address, &from->v6.sin6_addr, sizeof(from->v6.sin6_addr));
        key->port = from->v6.sin6_port;
        key->scope = from->v6.sin6_scope_id;
    } else {
        return -1;
    }
    key->family = from->any.sa_family;
    if (wildcard)
        tg_read_local(&r->messages[i].msg_hdr, key);
    return key->port ? 0 : -1; /* port 0 is a forgery: no socket has it */
}

/* Whether the flow does not tell where its datagrams went to: its socket has one address. */
static inline int tg_flow_local_unknown(const tg_flow_key *key) {
    static const unsigned char none[16];
    return !memcmp(key->local, none, sizeof(none));
}

/* The network that a client is counted by, as lb/proxy/accept/source_limits has it: the address of an IPv4 client, also on a socket of
 * IPv6, else its first half. An IPv6 client has a whole /64 to itself and may use any of its addresses (RFC 4941, RFC 7934). */
static inline uint64_t tg_network_of(const tg_flow_key *key, uint32_t *family) {
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    const unsigned char *from = key->address;
    uint64_t network = 0;
    int size = 4;
    *family = AF_INET;
    if (key->family == AF_INET6) {
        if (!memcmp(from, mapped, sizeof(mapped))) {
            from += sizeof(mapped);
        } else {
            *family = AF_INET6;
            size = 8;
        }
    }
    for (int i = 0; i < size; i++)
        network = network << 8 | from[i];
    return network;
}

/* Whether the client is one of IPv4 at a socket of both families. */
static inline int tg_flow_mapped(const tg_flow_key *key) {
    return key->family == AF_INET6 && IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)key->address);
}

/* The client's address as text: its length. */
static inline int tg_flow_text(const tg_flow_key *key, char into[46]) {
    into[0] = 0;
    if (tg_flow_mapped(key))
        inet_ntop(AF_INET, key->address + 12, into, 46); /* a client of IPv4 at a socket of both families */
    else
        inet_ntop(key->family, key->address, into, 46);
    return (int)strlen(into);
}

/* Bytes of the datagram in slot i. */
static inline const unsigned char *tg_request_data(const tg_requests *r, unsigned i) {
    return (const unsigned char *)r->data + (size_t)i * TG_SLOT;
}

static inline const unsigned char *tg_answer_data(const tg_answers *a, unsigned i) {
    return (const unsigned char *)a->data + (size_t)i * TG_SLOT;
}

static inline int tg_flow_port(const tg_flow_key *key) { return ntohs(key->port); }

/* Appends slot i of the requests to the train, with `front` bytes in front of it. */
static inline void tg_train_add(tg_train *t, unsigned at, const tg_requests *r, unsigned i, void *front, size_t size) {
    memset(&t->messages[at].msg_hdr, 0, sizeof(struct msghdr));
    t->parts[at][0].iov_base = front;
    t->parts[at][0].iov_len = size;
    t->parts[at][1].iov_base = r->data + (size_t)i * TG_SLOT;
    t->parts[at][1].iov_len = r->messages[i].msg_len;
    t->messages[at].msg_hdr.msg_iov = &t->parts[at][size ? 0 : 1];
    t->messages[at].msg_hdr.msg_iovlen = size ? 2 : 1;
}

/* Sends on a connected socket what the train has from `first` to before `end`: how many were taken. */
static inline int tg_train_send(tg_train *t, int fd, unsigned first, unsigned end) {
    int n;
    do {
        if (end - first == 1 && !t->parts[first][0].iov_len) /* send(2) costs less than sendmmsg(2) */
            n = send(fd, t->parts[first][1].iov_base, t->parts[first][1].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1
                                                                                                                  : 1;
        else
            n = sendmmsg(fd, &t->messages[first], end - first, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* Bytes of clients in the train from `first` to before `end`. */
static inline size_t tg_train_size(const tg_train *t, unsigned first, unsigned end) {
    size_t size = 0;
    for (; first < end; first++)
        size += t->parts[first][1].iov_len;
    return size;
}

/* 0, or -1 when memory is out. */
static inline int tg_answers_open(tg_answers *a) {
    memset(a, 0, sizeof(*a));
    a->data = (char *)malloc((size_t)TG_BATCH * TG_SLOT);
    if (!a->data)
        return -1;
    for (unsigned i = 0; i < TG_BATCH; i++) {
        a->rooms[i].iov_base = a->data + (size_t)i * TG_SLOT;
        a->reads[i].msg_hdr.msg_iov = &a->rooms[i];
        a->reads[i].msg_hdr.msg_iovlen = 1;
        a->writes[i].msg_hdr.msg_iov = &a->parts[i];
        a->writes[i].msg_hdr.msg_iovlen = 1;
        a->writes[i].msg_hdr.msg_name = &a->names[i];
    }
    return 0;
}

static inline void tg_answers_close(tg_answers *a) {
    free(a->data);
    a->data = NULL;
}

/* Takes at most `want` datagrams of a connected socket into the next slots: how many. Room for them is the caller's to
 * see to. */
static inline int tg_answers_receive(tg_answers *a, int fd, unsigned want, size_t limit) {
    int n;
    if (a->limit != limit) {
        a->limit = limit;
        for (unsigned i = 0; i < TG_BATCH; i++)
            a->rooms[i].iov_len = limit;
    }
    do
        n = recvmmsg(fd, &a->reads[a->slot], want, MSG_DONTWAIT, NULL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    a->slot += (unsigned)n;
    return n;
}

/* Prepares the write that takes slot i to the client of `key`, from the address that the client spoke to. */
static inline void tg_answer_put(tg_answers *a, unsigned i, const tg_flow_key *key, int wildcard) {
    unsigned at = a->used++;
    struct msghdr *message = &a->writes[at].msg_hdr;
    tg_sockaddr *name = &a->names[at];
    tg_control *control = &a->controls[at];
    memset(name, 0, sizeof(*name));
    a->parts[at].iov_base = a->rooms[i].iov_base;
    a->parts[at].iov_len = a->reads[i].msg_len;
    message->msg_control = wildcard ? control : NULL;
    message->msg_controllen = 0;
    if (wildcard)
        memset(control, 0, sizeof(*control));
    if (key->family == AF_INET) {
        name->v4.sin_family = AF_INET;
        name->v4.sin_port = key->port;
        memcpy(&name->v4.sin_addr, key->address, sizeof(name->v4.sin_addr));
        message->msg_namelen = sizeof(name->v4);
        if (wildcard) {
            struct in_pktinfo info;
            memset(&info, 0, sizeof(info));
            memcpy(&info.ipi_spec_dst, key->local, sizeof(info.ipi_spec_dst));
            control->align.cmsg_level = IPPROTO_IP;
            control->align.cmsg_type = IP_PKTINFO;
            control->align.cmsg_len = CMSG_LEN(sizeof(info));
            memcpy(CMSG_DATA(&control->align), &info, sizeof(info));
            message->msg_controllen = CMSG_SPACE(sizeof(info));
        }
    } else {
        name->v6.sin6_family = AF_INET6;
        name->v6.sin6_port = key->port;
        name->v6.sin6_scope_id = key->scope;
        memcpy(&name->v6.sin6_addr, key->address, sizeof(name->v6.sin6_addr));
        message->msg_namelen = sizeof(name->v6);
        if (wildcard) {
            struct in6_pktinfo info;
            memset(&info, 0, sizeof(info));
            memcpy(&info.ipi6_addr, key->local, sizeof(info.ipi6_addr));
            control->align.cmsg_level = IPPROTO_IPV6;
            control->align.cmsg_type = IPV6_PKTINFO;
            control->align.cmsg_len = CMSG_LEN(sizeof(info));
            memcpy(CMSG_DATA(&control->align), &info, sizeof(info));
            message->msg_controllen = CMSG_SPACE(sizeof(info));
        }
    }
}

/* Bytes of the writes from `first` to before `end`. */
static inline size_t tg_answers_size(const tg_answers *a, unsigned first, unsigned end) {
    size_t size = 0;
    for (; first < end; first++)
        size += a->parts[first].iov_len;
    return size;
}

/* Sends the writes from `first` on: how many were taken. */
static inline int tg_answers_send(tg_answers *a, int fd, unsigned first) {
    int n;
    do
        n = sendmmsg(fd, &a->writes[first], a->used - first, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* A socket for an endpoint: its descriptor. That of a Unix endpoint gets an abstract address of the kernel's choice, for
 * the answers to go to (unix(7), autobind); it leaves no file. */
static inline int tg_datagram_socket(int family) {
    struct sockaddr_un name;
    int failed, fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (family == AF_UNIX) {
        memset(&name, 0, sizeof(name));
        name.sun_family = AF_UNIX;
        if (bind(fd, (const struct sockaddr *)&name, sizeof(sa_family_t)) < 0) {
            failed = -errno;
            close(fd);
            return failed;
        }
    }
    return fd;
}

/* Connects it. 0. */
static inline int tg_datagram_join(int fd, const void *address, uint32_t length) {
    return connect(fd, (const struct sockaddr *)address, length) < 0 ? -errno : 0;
}

/* A socket connected to an endpoint: its descriptor. */
static inline int tg_datagram_connect(int family, const void *address, uint32_t length) {
    int fd = tg_datagram_socket(family);
    int failed = fd < 0 ? 0 : tg_datagram_join(fd, address, length);
    if (failed < 0) {
        close(fd);
        return failed;
    }
    return fd;
}

/* Makes a bound socket ready: *wildcard says whether it has every address; then the kernel tells which was meant. `own`
 * gets its address as `local`, its port and its family. 0, or minus an errno. */
static inline int tg_datagram_prepare(int fd, int *wildcard, tg_flow_key *own) {
    tg_sockaddr name;
    socklen_t length = sizeof(name);
    int one = 1, failed = 0;
    if (getsockname(fd, &name.any, &length) < 0)
        return -errno;
    *wildcard = 0;
    memset(own, 0, sizeof(*own));
    own->family = name.any.sa_family;
    if (name.any.sa_family == AF_INET) {
        own->port = name.v4.sin_port;
        memcpy(own->local, &name.v4.sin_addr, sizeof(name.v4.sin_addr));
        *wildcard = name.v4.sin_addr.s_addr == htonl(INADDR_ANY);
        if (*wildcard)
            failed = setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one));
    } else if (name.any.sa_family == AF_INET6) {
        own->port = name.v6.sin6_port;
        memcpy(own->local, &name.v6.sin6_addr, sizeof(name.v6.sin6_addr));
        *wildcard = IN6_IS_ADDR_UNSPECIFIED(&name.v6.sin6_addr);
        if (*wildcard)
            failed = setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof(one));
    } else {
        return -EAFNOSUPPORT;
    }
    return failed < 0 ? -errno : 0;
}

#endif
