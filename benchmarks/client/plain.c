/* Plain TCP. */
#include "transport.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

static void prepare(void) {}

static void attach(Link *link) { link->session = NULL; }

static ssize_t send_bytes(Link *link, const char *data, size_t size) {
    ssize_t sent = send(link->fd, data, size, MSG_NOSIGNAL);
    if (sent >= 0) return sent;
    if (errno == EAGAIN || errno == ENOTCONN) return WANTS_OUTPUT; /* buffer full, or not connected yet */
    die("sending failed: %s", strerror(errno));
}

static ssize_t receive_bytes(Link *link, char *into, size_t size) {
    ssize_t got = recv(link->fd, into, size, 0);
    if (got >= 0) return got;
    if (errno == EAGAIN || errno == ENOTCONN) return WANTS_INPUT;
    die("receiving failed: %s", strerror(errno));
}

static void detach(Link *link) { (void)link; }

const Transport plain_transport = {prepare, attach, send_bytes, receive_bytes, detach};
