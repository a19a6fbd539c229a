/* TLS 1.3 with OpenSSL. The parameters are the same for every server: one cipher suite, one group and no resumption, so
 * that every connection makes a full handshake. The handshake is part of the first send. The certificate is not
 * verified: that would cost the client CPU time, and the server none.
 */
#include "transport.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <string.h>

static SSL_CTX *context;

static const char *reason(void) {
    unsigned long code = ERR_peek_last_error();
    const char *text = code ? ERR_reason_error_string(code) : NULL;
    return text ? text : errno ? strerror(errno) : "the connection ended";
}

static void prepare(void) {
    signal(SIGPIPE, SIG_IGN); /* OpenSSL uses write(), which raises SIGPIPE after a reset */
    context = SSL_CTX_new(TLS_client_method());
    if (!context || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") || !SSL_CTX_set1_groups_list(context, "X25519"))
        die("OpenSSL does not support the parameters: %s", reason());
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

static void attach(Link *link) {
    SSL *session = SSL_new(context);
    if (!session || !SSL_set_fd(session, link->fd)) die("no TLS session: %s", reason());
    SSL_set_connect_state(session);
    link->session = session;
}

static ssize_t outcome(Link *link, int result, const char *problem) {
    if (result > 0) return result;
    switch (SSL_get_error(link->session, result)) {
    case SSL_ERROR_WANT_READ: return WANTS_INPUT;
    case SSL_ERROR_WANT_WRITE: return WANTS_OUTPUT;
    case SSL_ERROR_ZERO_RETURN: return ENDED;
    case SSL_ERROR_SYSCALL:
        if (errno == ENOTCONN) return WANTS_OUTPUT; /* not connected yet */
        /* fall through */
    default: die(problem, reason());
    }
}

static ssize_t send_bytes(Link *link, const char *data, size_t size) {
    ERR_clear_error();
    errno = 0;
    return outcome(link, SSL_write(link->session, data, (int)size), "sending over TLS failed: %s");
}

static ssize_t receive_bytes(Link *link, char *into, size_t size) {
    ERR_clear_error();
    errno = 0;
    return outcome(link, SSL_read(link->session, into, (int)size), "receiving over TLS failed: %s");
}

static void detach(Link *link) {
    SSL_shutdown(link->session);
    SSL_free(link->session);
    link->session = NULL;
}

const Transport tls_transport = {prepare, attach, send_bytes, receive_bytes, detach};
