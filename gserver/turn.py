"""One turn of a connection: receive once, decode all that is complete, call the service for each, send once.

This is the path of every message. What it does not do is as deliberate as what it does: no timer, no lock, no state
change for a connection whose handler does not block, and one send for all replies (16 pipelined JSON messages cost a
quarter of 16 single ones).
"""

from __future__ import annotations

import logging

import gevent
from greenlet import GreenletExit, getcurrent

from gserver.connection import HIGH_WATER, Connection, State
from gserver.errors import CloseReason, ConnectionClosed, ProtocolError
from gserver.framing import Malformed
from gserver.ledger import MESSAGES, Ledger
from gserver.service import Fault, Service

__all__ = ["Turn"]

log = logging.getLogger("gserver.turn")

# The most that one turn receives; what remains waits for the next turn, behind the other connections.
RECEIVE_BYTES = 64 * 1024


class Turn:
    """What a turn does, for one service. No method raises but GreenletExit, when the greenlet is killed.

    The messages of a turn are counted in the ledger together, before its last replies are sent.
    """

    def __init__(self, service: Service, ledger: Ledger) -> None:
        self._service = service
        self._ledger = ledger
        self._cells = ledger.cells
        self._on_message = service.on_message

    def serve(self, conn: Connection) -> None:
        """Answer every message that is complete after receiving once."""
        try:
            data = conn.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            conn.abort(CloseReason.PEER_RESET)
            return
        if not data:
            self._end(conn)
            return
        conn.received_bytes += len(data)
        codec, on_message, size, handled = conn.codec, self._on_message, 0, 0
        replies: list[bytes] = []
        conn.turn_replies = replies
        try:
            # Not a method of its own: a call less for every message is 1 % of an echo.
            try:
                codec.receive(data)
                for message in codec.messages():
                    if replies:  # those of the messages before this one
                        size += len(replies[-1])
                        if size > HIGH_WATER or conn.runner is not None:
                            size = self._send_early(conn, size)
                    if conn.close_reason is not None:
                        break
                    handled += 1
                    try:
                        if type(message) is Malformed:
                            self._malformed(conn, message)
                        else:
                            reply = on_message(message, conn)
                            if reply is not None:
                                replies.append(codec.encode(reply))
                    except (Exception, gevent.Timeout) as error:
                        self._handler_failed(conn, error)
            except ProtocolError as error:
                self._protocol_broken(conn, error)
            if handled:
                conn.messages += handled
                self._cells[MESSAGES] += handled
                handled = 0
            if replies:
                data = replies[0] if len(replies) == 1 else b"".join(replies)
                replies.clear()
                conn.push(data)
            if conn.outbox is not None:
                conn.wait_for_room()  # a peer that does not read its replies is not read from
        except ConnectionClosed:  # recorded where it happened
            self._count(conn, handled)
        except BaseException as error:
            self._count(conn, handled)
            conn.abort(CloseReason.KILLED if isinstance(error, GreenletExit) else CloseReason.HANDLER_ERROR)
            raise
        finally:
            conn.turn_replies = None
            if conn.close_reason is not None:
                conn.turn_over()

    def _count(self, conn: Connection, handled: int) -> None:
        """What a turn that was interrupted has handled."""
        conn.messages += handled
        self._cells[MESSAGES] += handled

    def serve_last(self, conn: Connection) -> None:
        """Answer what the peer has sent by now, then close: the last turn of a drain."""
        if conn.state is State.CLOSED:
            return
        conn.runner = getcurrent()
        owed = conn.unread_bytes()
        while owed > 0 and conn.close_reason is None:
            before = conn.received_bytes
            self.serve(conn)
            owed -= conn.received_bytes - before
            if conn.received_bytes == before:
                break
        conn.close(CloseReason.DRAINED)
        conn.runner = None

    def _send_early(self, conn: Connection, size: int) -> int:
        """Send before the turn is over: much is waiting, or a handler blocks and no reply shall wait for the next."""
        conn.flush_replies()
        if size > HIGH_WATER:
            conn.wait_for_room()
        return 0

    def _end(self, conn: Connection) -> None:
        """The peer will send no more; everything before this has been answered."""
        try:
            conn.codec.eof()
        except ProtocolError as error:
            self._protocol_broken(conn, error)
        else:
            conn.close(CloseReason.PEER_EOF)

    def _malformed(self, conn: Connection, message: Malformed) -> None:
        self._ledger.failed()
        log.debug("%s: %s: %s", conn, message.message, message.detail)
        if not self._say(conn, message):
            conn.close(CloseReason.PROTOCOL_ERROR)

    def _protocol_broken(self, conn: Connection, error: ProtocolError) -> None:
        self._ledger.failed()
        log.debug("%s: %s", conn, error)
        self._say(conn, error)
        conn.close(error.close_reason)

    def _handler_failed(self, conn: Connection, error: BaseException) -> None:
        if conn.state is State.CLOSED:  # it failed because its peer is gone, which is recorded already
            return
        self._ledger.failed()
        log.error("handler failed for %s", conn, exc_info=error)
        if not self._say(conn, error):
            conn.close(CloseReason.HANDLER_ERROR)

    def _say(self, conn: Connection, fault: Fault) -> bool:
        """Answer with what the service wants to say about `fault`; whether there was anything."""
        try:
            reply = self._service.on_error(fault, conn)
            if reply is not None:
                conn.append_reply(conn.codec.encode(reply))
        except Exception:
            log.exception("on_error failed for %s", conn)
            return False
        return reply is not None
