/* The transports of a connection: plain TCP and TLS 1.3.
 *
 * send and receive never block. They return a number of bytes above 0, or ENDED if the peer has closed (receive only),
 * or WANTS_INPUT or WANTS_OUTPUT: try again when the socket is readable or writable. On any error they call die(),
 * which ends the measurement.
 */
#ifndef TRANSPORT_H
#define TRANSPORT_H

#include <stddef.h>
#include <sys/types.h>

enum { ENDED = 0, WANTS_INPUT = -1, WANTS_OUTPUT = -2 };

typedef struct {
    int fd;
    void *session; /* SSL *; NULL with plain TCP */
} Link;

typedef struct {
    void (*prepare)(void);      /* called once, first */
    void (*attach)(Link *link); /* link->fd is a non-blocking socket that is connecting */
    ssize_t (*send)(Link *link, const char *data, size_t size);
    ssize_t (*receive)(Link *link, char *into, size_t size);
    void (*detach)(Link *link); /* send close_notify and free the session; the socket stays open */
} Transport;

extern const Transport plain_transport, tls_transport;

/* Print one line on standard error and exit with status 1; `problem` may contain one %s, for `detail`. */
_Noreturn void die(const char *problem, const char *detail);

#endif
