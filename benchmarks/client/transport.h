/* What carries the bytes of a connection: plain TCP, or TLS 1.3 on it.
 *
 * send and receive never block. They return a number of bytes above 0, or: ENDED, the peer has closed (receive only);
 * WANTS_INPUT and WANTS_OUTPUT, try again when the socket is readable or writable. Anything else is the end of the
 * measurement: they call die().
 */
#ifndef TRANSPORT_H
#define TRANSPORT_H

#include <stddef.h>
#include <sys/types.h>

enum { ENDED = 0, WANTS_INPUT = -1, WANTS_OUTPUT = -2 };

typedef struct {
    int fd;
    void *session; /* of TLS; NULL without */
} Link;

typedef struct {
    void (*prepare)(void);      /* once, before all others */
    void (*attach)(Link *link); /* link->fd is a non-blocking socket that connects */
    ssize_t (*send)(Link *link, const char *data, size_t size);
    ssize_t (*receive)(Link *link, char *into, size_t size);
    void (*detach)(Link *link); /* say goodbye and free the session; the socket stays open */
} Transport;

extern const Transport plain_transport, tls_transport;

/* Print one line for a person and end with status 1; `problem` may hold one %s, for `detail`. */
_Noreturn void die(const char *problem, const char *detail);

#endif
