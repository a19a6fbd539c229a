/* The client of a measurement: a closed loop over many connections in one thread.
 *
 *   load --port P --mode MODE [--tls] [--connections N] [--depth D] [--warm-up S] [--seconds S]
 *        [--message TEXT | --size BYTES] [--reply TEXT] [--opening TEXT]
 *
 * exchange   each connection sends D messages at once, and again when all of them are answered
 * churn      connect, one exchange, close; N connections at a time
 * idle       no messages are sent
 * broadcast  the first connection sends; all connections must receive the reply, which counts as N messages
 *
 * A newline is added to each text; --size sends so many bytes. A reply must be equal to --reply (default: the message).
 * Except in churn, one exchange is made on each connection after it is opened, so that the server has accepted it. The
 * message of that exchange is --opening, which must be echoed (default: the message).
 *
 * Steps:
 *   1. Open the connections, warm up, print "ready".
 *   2. After a line on standard input, load the server for S seconds.
 *   3. Send nothing new, and wait for the replies in flight: the server has then handled exactly the counted messages.
 *   4. Print a line of JSON. Keep the connections open until standard input ends, so that their memory can be read.
 * On an error, print one line on standard error and exit with status 1.
 */
#define _GNU_SOURCE
#include "histogram.h"
#include "transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS = 512,
    RECEIVE_BYTES = 256 * 1024,
    OPENING_AT_ONCE = 128, /* less than the backlog of any measured server */
    SOURCES = 250,
    PATIENCE_S = 20,
};

typedef enum { EXCHANGE, CHURN, IDLE, BROADCAST } Mode;
static const char *const mode_names[] = {"exchange", "churn", "idle", "broadcast", NULL};

/* A request, the reply that is expected, and the number of messages that they count as. */
typedef struct {
    char *request, *reply;
    size_t request_size, reply_size;
    unsigned messages;
} Script;

typedef struct {
    Link link;
    const Script *script; /* of the current exchange; NULL between exchanges */
    size_t sent, answered;
    uint64_t since;
    bool watches_output;
} Conn;

static struct {
    int port, connections, depth, size;
    Mode mode;
    const char *message, *reply, *opening;
    double warm_up_s, seconds;
} options = {.connections = 50, .depth = 1, .seconds = 3};

static const Transport *transport = &plain_transport;
static Script opening, load;
static Conn *conns;
static int epoll_fd;
static unsigned dialled, in_flight;
static bool is_opening, is_stopping;
static uint64_t messages, last_answer, broadcast_since;
static Histogram times;
static char buffer[RECEIVE_BYTES];

_Noreturn void die(const char *problem, const char *detail) {
    fputs("load: ", stderr);
    fprintf(stderr, problem, detail);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

/* Connections */

static void watch(Conn *conn, int operation, bool output) {
    struct epoll_event event = {.events = output ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = conn};
    conn->watches_output = output;
    if (epoll_ctl(epoll_fd, operation, conn->link.fd, &event)) die("epoll_ctl failed: %s", strerror(errno));
}

/* Bind to 127.0.1.1, 127.0.1.2 and so on in turn: a closed connection keeps its port for a minute (TIME_WAIT), and the
 * ports of a single address would run out. */
static void bind_source(int fd) {
    struct sockaddr_in from = {.sin_family = AF_INET};
    int on = 1;
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 256 + dialled++ % SOURCES);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&from, sizeof from)) die("bind failed: %s", strerror(errno));
}

static void dial(Conn *conn) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(options.port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    if (fd < 0) die("socket failed: %s", strerror(errno));
    bind_source(fd);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
        die("connect failed: %s", strerror(errno));
    conn->link.fd = fd;
    transport->attach(&conn->link);
    watch(conn, EPOLL_CTL_ADD, false);
}

static void hang_up(Conn *conn) {
    transport->detach(&conn->link);
    close(conn->link.fd);
}

/* Exchanges */

static void push(Conn *conn) {
    const Script *script = conn->script;
    bool output = false;
    while (conn->sent < script->request_size) {
        ssize_t sent = transport->send(&conn->link, script->request + conn->sent, script->request_size - conn->sent);
        if (sent <= 0) {
            output = sent == WANTS_OUTPUT;
            break;
        }
        conn->sent += sent;
    }
    if (output != conn->watches_output) watch(conn, EPOLL_CTL_MOD, output);
}

static void await(Conn *conn, const Script *script, uint64_t since) {
    conn->script = script;
    conn->answered = 0;
    conn->since = since;
    in_flight++;
}

static void request(Conn *conn, const Script *script, uint64_t since) {
    await(conn, script, since);
    conn->sent = 0;
    push(conn);
}

static void request_all(uint64_t since) {
    broadcast_since = since;
    for (int i = 1; i < options.connections; i++) {
        await(&conns[i], &load, since);
        conns[i].sent = load.request_size;
    }
    request(&conns[0], &load, since);
}

static void count(uint64_t since, uint64_t now, uint64_t of) {
    histogram_add(&times, now - since);
    messages += of;
}

/* End an exchange: count it, and begin the next one. */
static void complete(Conn *conn) {
    uint64_t now = now_ns();
    last_answer = now;
    conn->script = NULL;
    in_flight--;
    if (is_opening) return;
    if (options.mode == BROADCAST) {
        if (in_flight) return;
        count(broadcast_since, now, options.connections);
        if (!is_stopping) request_all(now);
        return;
    }
    count(conn->since, now, load.messages);
    if (options.mode == CHURN) hang_up(conn);
    if (is_stopping) return;
    if (options.mode == CHURN) dial(conn);
    request(conn, &load, now);
}

static void check(const Conn *conn, size_t got) {
    if (!conn->script) die("the server sent data without a request", NULL);
    if (conn->answered + got > conn->script->reply_size) die("the reply is longer than expected", NULL);
    if (memcmp(buffer, conn->script->reply + conn->answered, got)) die("the reply is wrong", NULL);
}

static void pull(Conn *conn) {
    do {
        ssize_t got = transport->receive(&conn->link, buffer, sizeof buffer);
        if (got == ENDED) die("the server closed a connection", NULL);
        if (got < 0) return;
        check(conn, got);
        conn->answered += got;
    } while (conn->answered < conn->script->reply_size);
    complete(conn);
}

static void handle_event(Conn *conn) {
    if (conn->script && conn->sent < conn->script->request_size) push(conn);
    pull(conn);
}

static void run_once(int timeout_ms) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);
    for (int i = 0; i < count; i++) handle_event(events[i].data.ptr);
    if (in_flight && now_ns() - last_answer > PATIENCE_S * 1000000000ull) die("the server does not answer", NULL);
}

/* Phases */

static void open_all(void) {
    is_opening = true;
    last_answer = now_ns();
    for (int i = 0; i < options.connections || in_flight;) {
        for (; i < options.connections && in_flight < OPENING_AT_ONCE; i++) {
            dial(&conns[i]);
            request(&conns[i], &opening, now_ns());
        }
        run_once(1000);
    }
    is_opening = false;
}

static void begin_all(uint64_t since) {
    if (options.mode == IDLE) return;
    if (options.mode == BROADCAST) {
        request_all(since);
        return;
    }
    for (int i = 0; i < options.connections; i++) {
        if (options.mode == CHURN) dial(&conns[i]);
        request(&conns[i], &load, now_ns());
    }
}

static void run(double seconds) {
    uint64_t start = now_ns(), end = start + (uint64_t)(seconds * 1e9);
    is_stopping = false;
    last_answer = start;
    begin_all(start);
    while (!is_stopping || in_flight) {
        uint64_t now = now_ns();
        is_stopping = now >= end;
        run_once(is_stopping ? 1000 : (int)((end - now) / 1000000 + 1));
    }
}

static double own_cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void measure(void) {
    double cpu = own_cpu_s();
    uint64_t start = now_ns();
    memset(&times, 0, sizeof times);
    messages = 0;
    run(options.seconds);
    printf("{\"messages\": %lu, \"elapsed_s\": %.6f, \"client_cpu_s\": %.6f, ", (unsigned long)messages,
           (now_ns() - start) * 1e-9, own_cpu_s() - cpu);
    printf("\"p50_us\": %.3f, \"p99_us\": %.3f, \"p999_us\": %.3f}\n", histogram_quantile(&times, .5) / 1e3,
           histogram_quantile(&times, .99) / 1e3, histogram_quantile(&times, .999) / 1e3);
    fflush(stdout);
}

/* Options */

static char *repeated(const char *text, size_t size, unsigned copies) {
    char *all = malloc(size * copies);
    if (!all) die("no memory for the messages", NULL);
    for (unsigned i = 0; i < copies; i++) memcpy(all + i * size, text, size);
    return all;
}

static char *line_of(const char *text) {
    char *line;
    if (asprintf(&line, "%s\n", text) < 0) die("no memory for the messages", NULL);
    return line;
}

/* Return `size` bytes of a pattern with a newline at the end. */
static char *pattern_of(size_t size) {
    char *pattern = malloc(size + 1);
    if (!pattern) die("no memory for the messages", NULL);
    for (size_t i = 0; i < size; i++) pattern[i] = 'a' + i % 23;
    pattern[size - 1] = '\n';
    pattern[size] = 0;
    return pattern;
}

static Script script_of(const char *message, const char *reply, unsigned depth) {
    size_t size = strlen(message), reply_size = strlen(reply);
    return (Script){repeated(message, size, depth), repeated(reply, reply_size, depth), size * depth,
                    reply_size * depth, depth};
}

static Mode mode_of(const char *name) {
    for (int i = 0; mode_names[i]; i++)
        if (!strcmp(name, mode_names[i])) return i;
    die("there is no mode %s", name);
}

static double number_of(const char *text, double least) {
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end || !(number >= least)) die("%s is not a number, or is too small", text);
    return number;
}

#ifdef WITH_TLS
static void use_tls(void) { transport = &tls_transport; }
#else
static void use_tls(void) { die("this program was built without TLS", NULL); }
#endif

static void parse(int argc, char **argv) {
    static const struct option flags[] = {
        {"port", 1, 0, 'p'},    {"mode", 1, 0, 'o'},  {"tls", 0, 0, 't'},  {"connections", 1, 0, 'c'},
        {"depth", 1, 0, 'd'},   {"size", 1, 0, 's'},  {"reply", 1, 0, 'r'}, {"message", 1, 0, 'm'},
        {"opening", 1, 0, 'i'}, {"warm-up", 1, 0, 'w'}, {"seconds", 1, 0, 'n'}, {0, 0, 0, 0}};
    for (int option; (option = getopt_long(argc, argv, "", flags, NULL)) != -1;) switch (option) {
        case 'p': options.port = (int)number_of(optarg, 1); break;
        case 'o': options.mode = mode_of(optarg); break;
        case 't': use_tls(); break;
        case 'c': options.connections = (int)number_of(optarg, 1); break;
        case 'd': options.depth = (int)number_of(optarg, 1); break;
        case 's': options.size = (int)number_of(optarg, 1); break;
        case 'r': options.reply = optarg; break;
        case 'm': options.message = optarg; break;
        case 'i': options.opening = optarg; break;
        case 'w': options.warm_up_s = number_of(optarg, 0); break;
        case 'n': options.seconds = number_of(optarg, 0); break;
        default: exit(2);
        }
    if (!options.port || !options.message == !options.size) die("needs --port, and --message or --size", NULL);
}

static void prepare(void) {
    char *message = options.message ? line_of(options.message) : pattern_of(options.size);
    char *reply = options.reply ? line_of(options.reply) : message;
    char *hello = options.opening ? line_of(options.opening) : message;
    load = script_of(message, reply, options.depth);
    opening = script_of(hello, options.opening ? hello : reply, 1);
    conns = calloc(options.connections, sizeof *conns);
    epoll_fd = epoll_create1(0);
    if (!conns || epoll_fd < 0) die("no memory for the connections", NULL);
    transport->prepare();
}

int main(int argc, char **argv) {
    parse(argc, argv);
    prepare();
    if (options.mode != CHURN) open_all();
    if (options.warm_up_s > 0) run(options.warm_up_s);
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF) return 0; /* the parent process has ended */
    measure();
    while (getchar() != EOF) {}
    return 0;
}
