/* Echo on one epoll loop: close to the cost of the kernel alone. Usage: echo_epoll PORT */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 512, BACKLOG = 4096, RECEIVE_BYTES = 64 * 1024 };

/* A connection, and bytes that the kernel has not accepted yet; nothing is received until they are sent. */
typedef struct {
    int fd;
    char *pending;
    size_t sent, size;
} Conn;

static int epoll_fd;
static char buffer[RECEIVE_BYTES];

static void watch(Conn *conn, int operation, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = conn};
    epoll_ctl(epoll_fd, operation, conn->fd, &event);
}

static void end(Conn *conn) {
    close(conn->fd);
    free(conn->pending);
    free(conn);
}

static void keep(Conn *conn, const char *rest, size_t size) {
    conn->pending = malloc(size);
    memcpy(conn->pending, rest, size);
    conn->size = size;
    conn->sent = 0;
    watch(conn, EPOLL_CTL_MOD, EPOLLOUT);
}

static void echo(Conn *conn) {
    ssize_t got = recv(conn->fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN) return;
    ssize_t sent = got > 0 ? send(conn->fd, buffer, got, MSG_NOSIGNAL) : -1;
    if (sent < 0 && got > 0 && errno == EAGAIN) sent = 0;
    if (sent < 0)
        end(conn);
    else if (sent < got)
        keep(conn, buffer + sent, got - sent);
}

static void send_pending(Conn *conn) {
    ssize_t sent = send(conn->fd, conn->pending + conn->sent, conn->size - conn->sent, MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN) return;
    if (sent < 0) {
        end(conn);
        return;
    }
    conn->sent += sent;
    if (conn->sent < conn->size) return;
    free(conn->pending);
    conn->pending = NULL;
    watch(conn, EPOLL_CTL_MOD, EPOLLIN);
}

static void welcome(int listener) {
    for (int fd, on = 1; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        Conn *conn = calloc(1, sizeof *conn);
        conn->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(conn, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static int listen_at(int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, BACKLOG)) {
        perror("echo_epoll");
        exit(1);
    }
    return listener;
}

int main(int argc, char **argv) {
    int listener = listen_at(argc > 1 ? atoi(argv[1]) : 0);
    Conn door = {.fd = listener};
    epoll_fd = epoll_create1(0);
    watch(&door, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            Conn *conn = events[i].data.ptr;
            if (conn == &door)
                welcome(listener);
            else if (conn->pending)
                send_pending(conn);
            else
                echo(conn);
        }
    }
}
