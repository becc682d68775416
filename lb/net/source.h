/* The address from which a socket goes to an endpoint: bind(2) before connect(2), with the port left to connect, so that
 * one port may go to several endpoints (IP_BIND_ADDRESS_NO_PORT), within a range if there is one (IP_LOCAL_PORT_RANGE, Linux
 * 6.3), and of a client if the kernel allows that (IP_TRANSPARENT, for CAP_NET_ADMIN).
 */
#ifndef TIDEGATE_SOURCE_H
#define TIDEGATE_SOURCE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif
#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51
#endif
#ifndef IPV6_TRANSPARENT
#define IPV6_TRANSPARENT 75
#endif

typedef struct {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } name; /* without a port; family AF_UNSPEC = none */
    uint16_t first, last; /* of the range of ports; 0 = the system's */
    int transparent;      /* the address need not be the machine's */
} tg_source;

/* `address` is in network order. */
static inline void tg_source_assign(tg_source *s, int family, const void *address) {
    memset(&s->name, 0, sizeof(s->name));
    s->name.any.sa_family = (sa_family_t)family;
    if (family == AF_INET)
        memcpy(&s->name.v4.sin_addr, address, 4);
    else
        memcpy(&s->name.v6.sin6_addr, address, 16);
}

/* Binds a socket that is to be connected to an endpoint of `family`. 0, or minus an errno. */
static inline int tg_source_bind(const tg_source *s, int fd, int family) {
    int one = 1;
    uint32_t range = (uint32_t)s->last << 16 | s->first;
    socklen_t size = s->name.any.sa_family == AF_INET ? sizeof(s->name.v4) : sizeof(s->name.v6);
    /* A client of the other family, of a Unix socket or of a link alone has no address that could be taken. */
    if (s->transparent && (s->name.any.sa_family != family
                           || (family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&s->name.v6.sin6_addr))))
        return 0;
    if (s->name.any.sa_family != family)
        return -EAFNOSUPPORT;
    if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one)) < 0)
        return -errno;
    if (s->last && setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, sizeof(range)) < 0)
        return -errno;
    if (s->transparent
        && (family == AF_INET ? setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &one, sizeof(one))
                              : setsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, &one, sizeof(one)))
               < 0)
        return -errno;
    return bind(fd, &s->name.any, size) < 0 ? -errno : 0;
}

#endif
