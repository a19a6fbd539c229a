/* The path of every message in C: does what gserver/engine/message_loop.py does, for plain sockets and the usual case.
 *
 * Unusual cases (an error, a handler that blocks, a reply that the kernel does not accept whole) are passed to methods
 * of MessageLoop and Connection, which are the same on both paths. A change of MessageLoop.serve(), dispatch() or
 * serve_parking() must be made here too, and the other way round. The suite runs both (gserver/engine/native_loop.py).
 *
 * Only the modules of gserver.connection and this file assign the fields of a connection. This file writes them in the
 * struct, because calls of Python methods would cost more than the writes. serve_turn() does the work of
 * Connection.begin_turn(), count_messages() and finish() that of Connection.finish_messages(), and end_turn() that of
 * Connection.end_turn(). They must be changed together.
 *
 * System calls here keep the interpreter's lock: they do not block, and releasing and taking the lock twice for each
 * message costs as much as decoding one.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>

/* The first two are those of gserver/connection/buffer_sizes.py; native_fields.py checks at its import that they are the same. */
enum { RECEIVE_BYTES = 64 * 1024, HIGH_WATER = 64 * 1024, COPIED_BYTES = 4 * 1024 };

/* The names of all methods and attributes that are looked up by name. */
#define NAMES(X) \
    X(_data) X(_handler_failed) X(_interrupted) X(_look_at_the_clock) X(_malformed) \
    X(_broken) X(_end) X(_push) X(_send_early) X(broken) X(conn) X(encode) X(keep_rest) X(message_began) X(messages) \
    X(partial) X(pause) X(popleft) X(push) X(receive) X(recv) X(switch) X(turn_over) X(wait_for_room_in_turn)
#define DECLARE(name) static PyObject *str_##name;
NAMES(DECLARE)
static PyObject *nothing, *newline; /* as bytes */

#define CALL(object, name) PyObject_CallMethodNoArgs((PyObject *)(object), str_##name)
#define CALL1(object, name, one) PyObject_CallMethodOneArg((PyObject *)(object), str_##name, (PyObject *)(one))
#define CALL2(object, name, one, two) \
    PyObject_CallMethodObjArgs((PyObject *)(object), str_##name, (PyObject *)(one), (PyObject *)(two), NULL)

static inline int
is_none(PyObject *object)
{
    return object == NULL || object == Py_None;
}

/* Drop the result of a call; return -1 if there is none, because the call has failed. */
static inline int
done(PyObject *result)
{
    if (result == NULL)
        return -1;
    Py_DECREF(result);
    return 0;
}

/* Return the exception that was raised, with its traceback, as a new reference. */
static PyObject *
caught(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace != NULL)
        PyException_SetTraceback(value, trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return value;
#endif
}

/* ConnectionFields: the fields of a connection that every message reads or writes. */

typedef struct {
    PyObject_HEAD
    PyObject *sock, *codec, *state, *close_reason, *runner, *outbox, *turn_replies;
    PyObject *context; /* the contextvars of its user code between its turns; NULL or None: empty */
    long long received_bytes, sent_bytes, messages;
    unsigned long long number;
    double opened_at, active_at, received_at;
    int fd; /* -1: receive and send with the methods of the socket object */
    char is_sealed; /* receive() and push() are those of a subclass (TLS) */
} Fields;

static PyMemberDef fields_members[] = {
    {"sock", T_OBJECT, offsetof(Fields, sock), 0, NULL},
    {"codec", T_OBJECT, offsetof(Fields, codec), 0, NULL},
    {"state", T_OBJECT, offsetof(Fields, state), 0, NULL},
    {"close_reason", T_OBJECT, offsetof(Fields, close_reason), 0, NULL},
    {"runner", T_OBJECT, offsetof(Fields, runner), 0, NULL},
    {"outbox", T_OBJECT, offsetof(Fields, outbox), 0, NULL},
    {"turn_replies", T_OBJECT, offsetof(Fields, turn_replies), 0, NULL},
    {"context", T_OBJECT, offsetof(Fields, context), 0, NULL},
    {"received_bytes", T_LONGLONG, offsetof(Fields, received_bytes), 0, NULL},
    {"sent_bytes", T_LONGLONG, offsetof(Fields, sent_bytes), 0, NULL},
    {"messages", T_LONGLONG, offsetof(Fields, messages), 0, NULL},
    {"number", T_ULONGLONG, offsetof(Fields, number), 0, NULL},
    {"opened_at", T_DOUBLE, offsetof(Fields, opened_at), 0, NULL},
    {"active_at", T_DOUBLE, offsetof(Fields, active_at), 0, NULL},
    {"received_at", T_DOUBLE, offsetof(Fields, received_at), 0, NULL},
    {"fd", T_INT, offsetof(Fields, fd), 0, NULL},
    {"is_sealed", T_BOOL, offsetof(Fields, is_sealed), 0, NULL},
    {NULL},
};

static int
fields_traverse(PyObject *self, visitproc visit, void *arg)
{
    Fields *fields = (Fields *)self;
    Py_VISIT(fields->sock);
    Py_VISIT(fields->codec);
    Py_VISIT(fields->state);
    Py_VISIT(fields->close_reason);
    Py_VISIT(fields->runner);
    Py_VISIT(fields->outbox);
    Py_VISIT(fields->turn_replies);
    Py_VISIT(fields->context);
    return 0;
}

static int
fields_clear(PyObject *self)
{
    Fields *fields = (Fields *)self;
    Py_CLEAR(fields->sock);
    Py_CLEAR(fields->codec);
    Py_CLEAR(fields->state);
    Py_CLEAR(fields->close_reason);
    Py_CLEAR(fields->runner);
    Py_CLEAR(fields->outbox);
    Py_CLEAR(fields->turn_replies);
    Py_CLEAR(fields->context);
    return 0;
}

static void
fields_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    fields_clear(self);
    Py_TYPE(self)->tp_free(self);
}

/* Exchange the running greenlet's contextvars (PEP 567) for those of the connection; a second call changes them back. A
 * turn begins and ends with it, so that a connection does not see variables that another one has set. Does the same as
 * connection.swap_context(), without a call if both are empty, as they nearly always are. */
static inline void
swap_context(Fields *conn)
{
    PyThreadState *thread = PyThreadState_Get();
    PyObject *mine = is_none(conn->context) ? NULL : conn->context;
    if (mine == thread->context)
        return;
    if (mine == NULL)
        Py_CLEAR(conn->context); /* drops the reference to None */
    conn->context = thread->context;
    thread->context = mine;
    thread->context_ver++; /* ContextVars cache their value by this version */
}

/* Receiving */

enum Received { DATA, NOTHING, FAILED };

/* Call recv(). Large input is received into the bytes object that is returned. Small input is copied, because a bytes
 * object made for 64 KiB and then shrunk to 64 bytes costs more. The size of the last input predicts the next one. */
static enum Received
receive_from_kernel(Fields *conn, size_t most, PyObject **data)
{
    static char buffer[RECEIVE_BYTES];
    static int is_large = 0;
    char *where = buffer;
    PyObject *large = NULL;
    if (is_large || most > RECEIVE_BYTES) {
        large = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)most);
        if (large == NULL)
            return FAILED;
        where = PyBytes_AS_STRING(large);
    }
    ssize_t size;
    do
        size = recv(conn->fd, where, most, MSG_DONTWAIT);
    while (size < 0 && errno == EINTR);
    if (size < 0) {
        Py_XDECREF(large);
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return NOTHING;
        PyErr_SetFromErrno(PyExc_OSError);
        return FAILED;
    }
    is_large = size > COPIED_BYTES;
    if (large == NULL)
        *data = PyBytes_FromStringAndSize(buffer, size);
    else if (_PyBytes_Resize(&large, size) == 0)
        *data = large;
    return *data == NULL ? FAILED : DATA;
}

static enum Received
receive(Fields *conn, size_t most, PyObject **data)
{
    if (conn->fd >= 0)
        return receive_from_kernel(conn, most, data);
    PyObject *number = PyLong_FromSize_t(most);
    *data = number == NULL ? NULL : CALL1(conn->sock, recv, number);
    Py_XDECREF(number);
    if (*data != NULL)
        return DATA;
    if (!PyErr_ExceptionMatches(PyExc_BlockingIOError))
        return FAILED;
    PyErr_Clear();
    return NOTHING;
}

/* Call the receive() of a subclass, which decrypts. */
static enum Received
receive_sealed(Fields *conn, size_t most, PyObject **data)
{
    PyObject *number = PyLong_FromSize_t(most);
    *data = number == NULL ? NULL : CALL1(conn, receive, number);
    Py_XDECREF(number);
    if (*data != Py_None)
        return *data == NULL ? FAILED : DATA;
    Py_CLEAR(*data);
    return NOTHING;
}

static PyObject *
fields_receive(PyObject *self, PyObject *number)
{
    PyObject *data = NULL;
    Py_ssize_t most = PyNumber_AsSsize_t(number, PyExc_OverflowError);
    if (most == -1 && PyErr_Occurred())
        return NULL;
    if (most < 0)
        return PyErr_Format(PyExc_ValueError, "cannot receive %zd bytes", most);
    enum Received received = receive((Fields *)self, (size_t)most, &data);
    return received == NOTHING ? Py_NewRef(Py_None) : data;
}

/* Sending */

/* Send `data` if the connection has a descriptor and an empty outbox. Return 1, and do nothing, if it has not. */
static int
push_plain(Fields *conn, PyObject *data)
{
    if (conn->fd < 0 || !is_none(conn->outbox) || !PyBytes_CheckExact(data))
        return 1;
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    ssize_t sent = send(conn->fd, PyBytes_AS_STRING(data), (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent == size) {
        conn->sent_bytes += sent;
        return 0;
    }
    if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        return done(CALL(conn, broken));
    PyObject *so_far = PyLong_FromSsize_t(sent < 0 ? 0 : sent);
    if (so_far == NULL)
        return -1;
    int status = done(CALL2(conn, keep_rest, data, so_far));
    Py_DECREF(so_far);
    return status;
}

static int
push(Fields *conn, PyObject *data)
{
    int status = conn->is_sealed ? 1 : push_plain(conn, data);
    return status == 1 ? done(CALL1(conn, push, data)) : status;
}

static PyObject *
fields_push(PyObject *self, PyObject *data)
{
    int status = push_plain((Fields *)self, data);
    if (status == 1)
        return CALL1(self, _push, data);
    return status < 0 ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef fields_methods[] = {
    {"receive", fields_receive, METH_O, NULL},
    {"push", fields_push, METH_O, NULL},
    {NULL},
};

static PyTypeObject FieldsType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gserver._native.ConnectionFields",
    .tp_basicsize = sizeof(Fields),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_members = fields_members,
    .tp_methods = fields_methods,
    .tp_traverse = fields_traverse,
    .tp_clear = fields_clear,
    .tp_dealloc = fields_dealloc,
};

/* CompiledLoop: runs the turns of the connections of one server. */

typedef struct {
    PyObject_HEAD
    double now;
    long batch;
    long sample_in;    /* messages until the next one whose handler is timed, that one included */
    long sampled_one_of;
    Py_ssize_t time_cell; /* index of the cell with the time of the handlers; those of their histogram follow */
    int buckets;          /* cells of the histogram */
    uint64_t shortest_ns; /* bound of its first bucket; each other bound is twice the one before */
    int is_bound; /* bind() was called */
    Py_ssize_t most_idle;
    Py_ssize_t counter; /* index of the cell that counts messages */
    Py_buffer cells;
    PyObject *on_message, *raw, *json_lines, *encode_json, *malformed, *killed, *open;
    PyObject *spare; /* an empty list, for the replies of the next turn */
} CompiledLoop;

static PyMemberDef loop_members[] = {
    {"now", T_DOUBLE, offsetof(CompiledLoop, now), 0, NULL},
    {"_batch", T_LONG, offsetof(CompiledLoop, batch), 0, NULL},
    {"_sample_in", T_LONG, offsetof(CompiledLoop, sample_in), 0, NULL},
    {"most_idle", T_PYSSIZET, offsetof(CompiledLoop, most_idle), 0, NULL},
    {NULL},
};

static int
loop_traverse(PyObject *self, visitproc visit, void *arg)
{
    CompiledLoop *loop = (CompiledLoop *)self;
    /* Not cells.obj: a memoryview that the collector clears while its buffer is in use crashes CPython 3.11. */
    Py_VISIT(loop->on_message);
    Py_VISIT(loop->raw);
    Py_VISIT(loop->json_lines);
    Py_VISIT(loop->encode_json);
    Py_VISIT(loop->malformed);
    Py_VISIT(loop->killed);
    Py_VISIT(loop->open);
    Py_VISIT(loop->spare);
    return 0;
}

static int
loop_clear(PyObject *self)
{
    CompiledLoop *loop = (CompiledLoop *)self;
    loop->is_bound = 0;
    PyBuffer_Release(&loop->cells);
    Py_CLEAR(loop->on_message);
    Py_CLEAR(loop->raw);
    Py_CLEAR(loop->json_lines);
    Py_CLEAR(loop->encode_json);
    Py_CLEAR(loop->malformed);
    Py_CLEAR(loop->killed);
    Py_CLEAR(loop->open);
    Py_CLEAR(loop->spare);
    return 0;
}

static void
loop_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    loop_clear(self);
    Py_TYPE(self)->tp_free(self);
}

static void
count_messages(CompiledLoop *loop, Fields *conn, long handled)
{
    conn->messages += handled;
    ((uint64_t *)loop->cells.buf)[loop->counter] += (uint64_t)handled;
}

/* A turn */

static int
push_all(Fields *conn, PyObject *replies)
{
    PyObject *data;
    if (PyList_GET_SIZE(replies) == 1)
        data = Py_NewRef(PyList_GET_ITEM(replies, 0));
    else {
        data = PyObject_CallMethod(nothing, "join", "O", replies);
    }
    if (data == NULL || PyList_SetSlice(replies, 0, PY_SSIZE_T_MAX, NULL) < 0) {
        Py_XDECREF(data);
        return -1;
    }
    int status = push(conn, data);
    Py_DECREF(data);
    return status;
}

/* Send replies before the turn is over: see MessageLoop._send_early(). */
static int
send_early(CompiledLoop *loop, Fields *conn, Py_ssize_t size)
{
    PyObject *number = PyLong_FromSsize_t(size);
    if (number == NULL)
        return -1;
    int status = done(CALL2(loop, _send_early, conn, number));
    Py_DECREF(number);
    return status;
}

/* Before a message: send the replies so far, of `size` bytes, if they are large or a handler has blocked. */
static int
before_message(CompiledLoop *loop, Fields *conn, PyObject *replies, Py_ssize_t *size)
{
    Py_ssize_t count = PyList_GET_SIZE(replies);
    if (count == 0)
        return 0;
    Py_ssize_t last = PyObject_Size(PyList_GET_ITEM(replies, count - 1));
    if (last < 0)
        return -1;
    *size += last;
    if (*size <= HIGH_WATER && is_none(conn->runner))
        return 0;
    int status = send_early(loop, conn, *size);
    *size = 0;
    return status;
}

static int
look_at_the_clock(CompiledLoop *loop, Fields *conn, double *began)
{
    PyObject *before = PyFloat_FromDouble(*began);
    if (before == NULL)
        return -1;
    PyObject *after = CALL2(loop, _look_at_the_clock, conn, before);
    Py_DECREF(before);
    if (after == NULL)
        return -1;
    *began = PyFloat_AsDouble(after);
    Py_DECREF(after);
    return PyErr_Occurred() ? -1 : 0;
}

/* codec.encode(reply). For two codecs it is done here, because calling their method costs more than its work. For a
 * value that JSON cannot represent, the method is called for its error message. Steals the reference to `reply`. */
static PyObject *
encode(CompiledLoop *loop, PyObject *codec, PyObject *reply)
{
    PyObject *encoded;
    if (PyBytes_CheckExact(reply) && Py_TYPE(codec) == (PyTypeObject *)loop->raw)
        return reply;
    if (Py_TYPE(codec) == (PyTypeObject *)loop->json_lines) {
        encoded = PyObject_CallOneArg(loop->encode_json, reply);
        if (encoded != NULL)
            PyBytes_Concat(&encoded, newline);
        else if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            encoded = CALL1(codec, encode, reply);
        }
    }
    else
        encoded = CALL1(codec, encode, reply);
    Py_DECREF(reply);
    if (encoded != NULL && !PyBytes_Check(encoded)) {
        PyErr_Format(PyExc_TypeError, "encode() of the codec %s returned %s, must be bytes", Py_TYPE(codec)->tp_name,
                     Py_TYPE(encoded)->tp_name);
        Py_CLEAR(encoded);
    }
    return encoded;
}

static uint64_t
nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Count the time of a handler: see Counters.handler_took(). */
static void
count_time(CompiledLoop *loop, uint64_t took)
{
    uint64_t *cells = (uint64_t *)loop->cells.buf + loop->time_cell;
    int bucket = 0;
    for (uint64_t rest = took / loop->shortest_ns; rest != 0 && bucket < loop->buckets - 1; rest >>= 1)
        bucket++;
    cells[0] += took;
    cells[1 + bucket]++;
}

/* Call the handler. The call for one of sampled_one_of messages is timed: see MessageLoop._timed(). */
static PyObject *
call_handler(CompiledLoop *loop, Fields *conn, PyObject *message)
{
    PyObject *arguments[] = {message, (PyObject *)conn};
    if (--loop->sample_in > 0)
        return PyObject_Vectorcall(loop->on_message, arguments, 2, NULL);
    loop->sample_in = loop->sampled_one_of;
    uint64_t began = nanoseconds();
    PyObject *reply = PyObject_Vectorcall(loop->on_message, arguments, 2, NULL);
    count_time(loop, nanoseconds() - began);
    return reply;
}

/* Call the handler, and append its encoded reply. */
static int
answer(CompiledLoop *loop, Fields *conn, PyObject *codec, PyObject *message, PyObject *replies)
{
    if (Py_TYPE(message) == (PyTypeObject *)loop->malformed)
        return done(CALL2(loop, _malformed, conn, message));
    PyObject *reply = call_handler(loop, conn, message);
    if (reply == NULL)
        return -1;
    if (reply == Py_None) {
        Py_DECREF(reply);
        return is_none(conn->runner) ? 0 : send_early(loop, conn, 0);
    }
    PyObject *encoded = encode(loop, codec, reply);
    if (encoded == NULL)
        return -1;
    int status = PyList_Append(replies, encoded);
    Py_DECREF(encoded);
    return status;
}

/* Handle one message, and any exception of its handler. Return -1 if the server has killed the turn. */
static int
handle(CompiledLoop *loop, Fields *conn, PyObject *codec, PyObject *message, PyObject *replies)
{
    if (answer(loop, conn, codec, message, replies) == 0)
        return 0;
    if (PyErr_ExceptionMatches(loop->killed))
        return -1;
    PyObject *error = caught();
    int status = done(CALL2(loop, _handler_failed, conn, error));
    Py_DECREF(error);
    return status;
}

/* Raw returns its input as one message, unless it still holds data because the handler has changed codecs. */
static int
is_raw(CompiledLoop *loop, PyObject *codec)
{
    if (Py_TYPE(codec) != (PyTypeObject *)loop->raw)
        return 0;
    PyObject *before = PyObject_GetAttr(codec, str__data);
    int is_empty = before != NULL && PyBytes_CheckExact(before) && PyBytes_GET_SIZE(before) == 0;
    Py_XDECREF(before);
    PyErr_Clear();
    return is_empty;
}

static PyObject *
decode(PyObject *codec, PyObject *data)
{
    if (done(CALL1(codec, receive, data)) < 0)
        return NULL;
    PyObject *messages = CALL(codec, messages);
    if (messages == NULL)
        return NULL;
    PyObject *each = PyObject_GetIter(messages);
    Py_DECREF(messages);
    return each;
}

/* Decode, and handle message after message; `handled` counts them. */
static int
handle_all(CompiledLoop *loop, Fields *conn, PyObject *codec, PyObject *data, PyObject *replies, long *handled)
{
    PyObject *each = decode(codec, data);
    if (each == NULL)
        return -1;
    double began = loop->now;
    long look_at = loop->batch;
    Py_ssize_t size = 0;
    int status = 0;
    PyObject *message;
    while (status == 0 && (message = PyIter_Next(each)) != NULL) {
        status = before_message(loop, conn, replies, &size);
        if (status == 0 && *handled == look_at) {
            status = look_at_the_clock(loop, conn, &began);
            look_at += loop->batch;
        }
        if (status == 0 && !is_none(conn->close_reason)) {
            Py_DECREF(message);
            break;
        }
        if (status == 0) {
            ++*handled;
            status = handle(loop, conn, codec, message, replies);
        }
        Py_DECREF(message);
    }
    Py_DECREF(each);
    return PyErr_Occurred() ? -1 : status;
}

/* After the last message: send the replies, note whether a message has begun, and wait if too much is unsent. */
static int
finish(CompiledLoop *loop, Fields *conn, PyObject *codec, int has_inside, PyObject *replies)
{
    if (PyList_GET_SIZE(replies) != 0 && push_all(conn, replies) < 0)
        return -1;
    if (has_inside && is_none(conn->close_reason)) {
        PyObject *partial = PyObject_GetAttr(codec, str_partial);
        int is_partial = partial == NULL ? -1 : PyObject_IsTrue(partial);
        Py_XDECREF(partial);
        if (is_partial < 0 || (is_partial && done(CALL(conn, message_began)) < 0))
            return -1;
    }
    return is_none(conn->outbox) ? 0 : done(CALL(conn, wait_for_room_in_turn));
}

static int
handle_received(CompiledLoop *loop, Fields *conn, PyObject *data, PyObject *replies)
{
    PyObject *codec = Py_NewRef(conn->codec);
    int raw = is_raw(loop, codec), status;
    long handled = 0;
    if (raw) {
        handled = 1;
        status = handle(loop, conn, codec, data, replies);
    }
    else
        status = handle_all(loop, conn, codec, data, replies, &handled);
    if (status < 0 && !PyErr_ExceptionMatches(loop->killed)) {
        PyObject *error = caught();
        status = done(CALL2(loop, _broken, conn, error));
        Py_DECREF(error);
    }
    if (status == 0) {
        count_messages(loop, conn, handled);
        handled = 0;
        status = finish(loop, conn, codec, !raw, replies);
    }
    Py_DECREF(codec);
    if (status < 0) {
        PyObject *error = caught();
        PyObject *number = PyLong_FromLong(handled);
        if (number != NULL)
            status = done(PyObject_CallMethodObjArgs((PyObject *)loop, str__interrupted, conn, number, error, NULL));
        Py_XDECREF(number);
        Py_DECREF(error);
    }
    return status;
}

/* After a turn: keep its list of replies for the next one, if it is empty and there is no other reference to it. */
static void
keep_spare(CompiledLoop *loop, PyObject *replies)
{
    if (loop->spare == NULL && Py_REFCNT(replies) == 1 && PyList_GET_SIZE(replies) == 0)
        loop->spare = replies;
    else
        Py_DECREF(replies);
}

static int
end_turn(Fields *conn)
{
    Py_CLEAR(conn->turn_replies);
    if (is_none(conn->close_reason))
        return 0;
    PyObject *error = PyErr_Occurred() ? caught() : NULL;
    int status = done(CALL(conn, turn_over));
    if (error == NULL)
        return status;
    PyErr_Clear();
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(error);
#else
    PyErr_Restore(Py_NewRef(Py_TYPE(error)), error, PyException_GetTraceback(error));
#endif
    return -1;
}

static int
not_received(Fields *conn)
{
    if (!PyErr_ExceptionMatches(PyExc_OSError))
        return -1;
    PyErr_Clear();
    return done(CALL(conn, broken));
}

static int
serve_turn(CompiledLoop *loop, Fields *conn)
{
    PyObject *data = NULL;
    enum Received received = (conn->is_sealed ? receive_sealed : receive)(conn, RECEIVE_BYTES, &data);
    if (received != DATA)
        return received == NOTHING ? 0 : not_received(conn);
    Py_ssize_t size = PyObject_Size(data);
    if (size <= 0) {
        Py_DECREF(data);
        return size < 0 ? -1 : done(CALL1(loop, _end, conn));
    }
    conn->received_bytes += size;
    conn->active_at = conn->received_at = loop->now;
    PyObject *replies = loop->spare != NULL ? loop->spare : PyList_New(0);
    loop->spare = NULL;
    if (replies == NULL) {
        Py_DECREF(data);
        return -1;
    }
    Py_XSETREF(conn->turn_replies, Py_NewRef(replies));
    swap_context(conn);
    int status = handle_received(loop, conn, data, replies);
    swap_context(conn);
    Py_DECREF(data);
    if (end_turn(conn) < 0)
        status = -1;
    keep_spare(loop, replies);
    return status;
}

static Fields *
a_connection(CompiledLoop *loop, PyObject *object)
{
    if (!loop->is_bound)
        PyErr_SetString(PyExc_RuntimeError, "bind() was not called");
    else if (!PyObject_TypeCheck(object, &FieldsType))
        PyErr_Format(PyExc_TypeError, "%R is not a connection", object);
    else
        return (Fields *)object;
    return NULL;
}

static PyObject *
loop_serve(PyObject *self, PyObject *object)
{
    Fields *conn = a_connection((CompiledLoop *)self, object);
    if (conn == NULL || serve_turn((CompiledLoop *)self, conn) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Serve one ready connection. */
static int
serve_one(CompiledLoop *loop, Fields *conn, PyObject *runner)
{
    if (!is_none(conn->runner))
        return done(CALL(conn, pause));
    if (conn->state != loop->open)
        return 0;
    if (PyObject_SetAttr(runner, str_conn, (PyObject *)conn) < 0)
        return -1;
    return serve_turn(loop, conn) < 0 ? -1 : PyObject_SetAttr(runner, str_conn, Py_None);
}

/* Serve all ready connections; return the connection with a blocked handler, or None. */
static PyObject *
serve_ready(CompiledLoop *loop, PyObject *ready, PyObject *runner)
{
    for (;;) {
        Py_ssize_t left = PyObject_Size(ready);
        if (left <= 0)
            return left < 0 ? NULL : Py_NewRef(Py_None);
        PyObject *object = CALL(ready, popleft);
        if (object == NULL)
            return NULL;
        Fields *conn = a_connection(loop, object);
        if (conn == NULL || serve_one(loop, conn, runner) < 0) {
            Py_DECREF(object);
            return NULL;
        }
        if (conn->runner == runner)
            return object;
        Py_DECREF(object);
    }
}

/* Runners: see MessageLoop.dispatch() and MessageLoop.serve_parking(). */

static int
has_list(PyObject *const *arguments, Py_ssize_t count, const char *usage)
{
    if (count == 4 && PyList_Check(arguments[1]))
        return 1;
    PyErr_SetString(PyExc_TypeError, usage);
    return 0;
}

static PyObject *
loop_serve_parking(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    if (!has_list(arguments, count, "serve_parking() takes ready, a list of idle runners, runner and park"))
        return NULL;
    CompiledLoop *loop = (CompiledLoop *)self;
    PyObject *ready = arguments[0], *idle = arguments[1], *runner = arguments[2], *park = arguments[3];
    for (;;) {
        PyObject *blocked = serve_ready(loop, ready, runner);
        if (blocked != Py_None || PyList_GET_SIZE(idle) >= loop->most_idle)
            return blocked;
        Py_DECREF(blocked);
        if (PyList_Append(idle, runner) < 0 || done(PyObject_CallNoArgs(park)) < 0)
            return NULL;
    }
}

static PyObject *
an_idle_runner(PyObject *idle, PyObject *make_runner)
{
    Py_ssize_t last = PyList_GET_SIZE(idle) - 1;
    if (last < 0)
        return PyObject_CallNoArgs(make_runner);
    PyObject *runner = Py_NewRef(PyList_GET_ITEM(idle, last));
    if (PyList_SetSlice(idle, last, last + 1, NULL) < 0)
        Py_CLEAR(runner);
    return runner;
}

static int
enter(PyObject *runner, PyObject *handler_blocks)
{
    if (done(CALL(runner, switch)) < 0)
        return -1;
    PyObject *conn = PyObject_GetAttr(runner, str_conn);
    int status = conn == NULL ? -1 : 0;
    if (!is_none(conn))
        status = done(PyObject_CallFunctionObjArgs(handler_blocks, runner, conn, NULL));
    Py_XDECREF(conn);
    return status;
}

static double
monotonic(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static PyObject *
loop_dispatch(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    if (!has_list(arguments, count, "dispatch() takes ready, a list of idle runners, make_runner and handler_blocks"))
        return NULL;
    CompiledLoop *loop = (CompiledLoop *)self;
    PyObject *ready = arguments[0], *idle = arguments[1], *make_runner = arguments[2], *handler_blocks = arguments[3];
    Py_ssize_t left = PyObject_Size(ready);
    if (left > 0)
        loop->now = monotonic();
    for (; left > 0; left = PyObject_Size(ready)) {
        PyObject *runner = an_idle_runner(idle, make_runner);
        if (runner == NULL)
            return NULL;
        int status = enter(runner, handler_blocks);
        Py_DECREF(runner);
        if (status < 0)
            return NULL;
    }
    return left < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
loop_bind(PyObject *self, PyObject *arguments)
{
    CompiledLoop *loop = (CompiledLoop *)self;
    PyObject *on_message, *cells, *raw, *json_lines, *encode_json, *malformed, *killed, *open;
    Py_ssize_t counter, time_cell;
    unsigned long long shortest_ns;
    long sampled_one_of;
    int buckets;
    if (!PyArg_ParseTuple(arguments, "OOn(niKl)O!O!OO!OO", &on_message, &cells, &counter, &time_cell, &buckets,
                          &shortest_ns, &sampled_one_of, &PyType_Type, &raw, &PyType_Type, &json_lines, &encode_json,
                          &PyType_Type, &malformed, &killed, &open))
        return NULL;
    if (buckets < 1 || shortest_ns < 1 || sampled_one_of < 1) {
        PyErr_Format(PyExc_ValueError, "%d buckets from %llu ns, for 1 of %ld messages: each must be at least 1", buckets,
                     shortest_ns, sampled_one_of);
        return NULL;
    }
    loop_clear(self);
    if (PyObject_GetBuffer(cells, &loop->cells, PyBUF_WRITABLE) < 0)
        return NULL;
    if (counter < 0 || (counter + 1) * (Py_ssize_t)sizeof(uint64_t) > loop->cells.len) {
        PyErr_Format(PyExc_ValueError, "there is no cell %zd of 8 bytes in %zd bytes", counter, loop->cells.len);
        return NULL;
    }
    if (time_cell < 0 || (time_cell + 1 + buckets) * (Py_ssize_t)sizeof(uint64_t) > loop->cells.len) {
        PyErr_Format(PyExc_ValueError, "there are no %d cells of 8 bytes from %zd on in %zd bytes", buckets + 1, time_cell,
                     loop->cells.len);
        return NULL;
    }
    loop->counter = counter;
    loop->time_cell = time_cell;
    loop->buckets = buckets;
    loop->shortest_ns = shortest_ns;
    loop->sample_in = loop->sampled_one_of = sampled_one_of;
    loop->on_message = Py_NewRef(on_message);
    loop->raw = Py_NewRef(raw);
    loop->json_lines = Py_NewRef(json_lines);
    loop->encode_json = Py_NewRef(encode_json);
    loop->malformed = Py_NewRef(malformed);
    loop->killed = Py_NewRef(killed);
    loop->open = Py_NewRef(open);
    loop->is_bound = 1;
    Py_RETURN_NONE;
}

static PyMethodDef loop_methods[] = {
    {"bind", loop_bind, METH_VARARGS, NULL},
    {"serve", loop_serve, METH_O, NULL},
    {"serve_parking", (PyCFunction)(void (*)(void))loop_serve_parking, METH_FASTCALL, NULL},
    {"dispatch", (PyCFunction)(void (*)(void))loop_dispatch, METH_FASTCALL, NULL},
    {NULL},
};

static PyTypeObject CompiledLoopType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "gserver._native.CompiledLoop",
    .tp_basicsize = sizeof(CompiledLoop),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_members = loop_members,
    .tp_methods = loop_methods,
    .tp_traverse = loop_traverse,
    .tp_clear = loop_clear,
    .tp_dealloc = loop_dealloc,
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "gserver._native",
    .m_doc = "The path of every message in C; see gserver.engine.native_loop.",
    .m_size = -1,
};

PyMODINIT_FUNC
PyInit__native(void)
{
#define INTERN(name) \
    if ((str_##name = PyUnicode_InternFromString(#name)) == NULL) \
        return NULL;
    NAMES(INTERN)
    nothing = PyBytes_FromString("");
    newline = PyBytes_FromString("\n");
    if (nothing == NULL || newline == NULL)
        return NULL;
    if (PyType_Ready(&FieldsType) < 0 || PyType_Ready(&CompiledLoopType) < 0)
        return NULL;
    PyObject *self = PyModule_Create(&module);
    if (self == NULL)
        return NULL;
    if (PyModule_AddIntMacro(self, RECEIVE_BYTES) < 0 || PyModule_AddIntMacro(self, HIGH_WATER) < 0 ||
        PyModule_AddObjectRef(self, "ConnectionFields", (PyObject *)&FieldsType) < 0 ||
        PyModule_AddObjectRef(self, "CompiledLoop", (PyObject *)&CompiledLoopType) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}
