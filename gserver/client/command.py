"""The command `python -m gserver.client`: talk to a server from the terminal.

It sends each line of standard input as a message, then half-closes, and prints every reply as it arrives. An error is
one line on standard error. The exit status is 1 for an error and 2 for arguments that cannot be used.
"""

from __future__ import annotations

import argparse
import os
import ssl
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import msgspec

from gserver.client.client import DEFAULT_TIMEOUT_S, Client
from gserver.codecs import CODECS, Codec, JsonLines, Malformed, MsgPack, Raw, codec_named
from gserver.command_parser import CommandParser, complain
from gserver.config.addresses import TcpBind, UnixBind, parse_bind
from gserver.errors import ConnectionClosed, GServerError

__all__ = ["entry_point", "main"]

PROGRAM = "gserver.client"


class _Parser(CommandParser):
    def error(self, message: str) -> NoReturn:
        complain(PROGRAM, message)
        self.exit(2)


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit status."""
    address = ""
    try:
        parser = _parser()
        arguments = parser.parse_args(argv)
        _check(parser, arguments)
        address = f"{arguments.address}: "
        codec = codec_named(arguments.codec)()
        options = {"ssl_context": _context(arguments), "server_hostname": arguments.server_name}
        with Client(_address(arguments.address), codec, arguments.timeout, **options) as client:
            return _converse(client, sys.stdin.buffer if sys.stdin else ())
    except (GServerError, OSError, ValueError) as error:
        complain(PROGRAM, f"{address}{error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m gserver.client",
        description="Send each line of standard input as a message, then half-close; print the replies.",
    )
    parser.has_output = sys.stdout is not None
    parser.add_argument("address", metavar="HOST:PORT", help="the server: HOST:PORT, [V6]:PORT or unix:PATH")
    parser.add_argument("--codec", default="lines", metavar="NAME", help=f"codec: {', '.join(CODECS)} (default lines)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help="maximum time to connect, and, after the last line, until the server closes the connection "
        f"(default {DEFAULT_TIMEOUT_S:g})",
    )
    tls = parser.add_argument_group("TLS", "each of these but --tls needs --tls")
    tls.add_argument("--tls", action="store_true", help="connect with TLS, and check the server's certificate")
    tls.add_argument("--ca", metavar="FILE", help="trust the authorities in FILE (PEM) instead of the system's")
    tls.add_argument("--cert", metavar="FILE", help="client certificate, with its chain (PEM)")
    tls.add_argument("--key", metavar="FILE", help="its key (PEM; default: in the file of --cert)")
    tls.add_argument("--server-name", metavar="NAME", help="name in the server's certificate (default: the host)")
    tls.add_argument("--no-verify", action="store_true", help="accept any certificate: for tests only")
    return parser


def _check(parser: _Parser, arguments: argparse.Namespace) -> None:
    """End with status 2 if the options for TLS do not fit together."""
    values = {
        "--ca": arguments.ca,
        "--cert": arguments.cert,
        "--key": arguments.key,
        "--server-name": arguments.server_name,
        "--no-verify": arguments.no_verify or None,
    }
    given = [option for option, value in values.items() if value is not None]
    if given and not arguments.tls:
        parser.error(f"{given[0]} needs --tls")
    if arguments.key is not None and arguments.cert is None:
        parser.error("--key needs --cert")
    if arguments.tls and arguments.address.startswith("unix:") and not (arguments.server_name or arguments.no_verify):
        parser.error("a unix socket has no host: --tls needs --server-name or --no-verify there")


def _context(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """Return the context for TLS, None without --tls; ValueError for a file that cannot be used."""
    if not arguments.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=arguments.ca)
    except OSError as error:
        raise ValueError(f"--ca {arguments.ca!r} cannot be used: {error}") from None
    if arguments.no_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if arguments.cert is not None:
        files = " ".join(f"{name} {value!r}" for name in ("cert", "key") if (value := getattr(arguments, name)))
        try:
            context.load_cert_chain(arguments.cert, arguments.key)
        except OSError as error:
            raise ValueError(f"--{files.replace(' key ', ' --key ')} cannot be used: {error}") from None
    return context


def _address(text: str) -> tuple[str, int] | str:
    bind = parse_bind(text)
    if isinstance(bind, UnixBind):
        return bind.address
    if isinstance(bind, TcpBind):
        return (bind.host or "127.0.0.1", bind.port)
    raise ValueError(f"{text!r} is no address to connect to: expected HOST:PORT, [V6]:PORT or unix:PATH")


def _converse(client: Client, requests: Iterable[bytes]) -> int:
    """Send requests, and print replies in a thread: each reply appears at once, and the server is never blocked."""
    failures: list[Exception] = []
    timeout_s, client.timeout_s = client.timeout_s, None  # no limit while the user types
    printer = threading.Thread(target=_print_replies, args=(client, failures), daemon=True)
    printer.start()
    try:
        for line in requests:
            client.send(_message(client.codec, line))
        client.finish()
    except (ConnectionClosed, OSError):
        printer.join(timeout_s)  # the server has ended the conversation, and its last bytes may have the reason
        if failures:
            raise failures[0] from None
        raise
    printer.join(timeout_s)
    if printer.is_alive():
        raise TimeoutError(f"the server did not finish within {timeout_s:g} s")
    if failures:
        raise failures[0]
    return 0


def _print_replies(client: Client, failures: list[Exception]) -> None:
    try:
        while True:
            _print(_text(client.recv()))
    except ConnectionClosed as end:
        if end.__cause__ is not None:  # a reset, or an alert of TLS
            failures.append(end)
    except (GServerError, OSError, ValueError) as error:
        failures.append(error)


def _print(text: bytes) -> None:
    """Write to standard output at once. Not through sys.stdout, which would fail again when the process exits."""
    if sys.stdout is None:
        raise ValueError("cannot write to standard output: it is closed")
    rest = memoryview(text)
    try:
        while rest:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]
    except OSError as error:
        raise ValueError(f"cannot write to standard output: {error.strerror}") from None


def _message(codec: Codec, line: bytes) -> Any:
    """Convert a line of input to a message: JSON for a codec that carries data, bytes for the others."""
    if isinstance(codec, JsonLines | MsgPack):
        try:
            return msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(f"{line!r} is not JSON: {error}") from None
    return line if isinstance(codec, Raw) else line.rstrip(b"\r\n")


def _text(reply: Any) -> bytes:
    if isinstance(reply, Malformed):
        raise ValueError(f"the server sent an invalid reply: {reply.detail}")
    if isinstance(reply, bytes):
        return reply if reply.endswith(b"\n") else reply + b"\n"
    return msgspec.json.encode(reply) + b"\n"


def entry_point() -> NoReturn:
    sys.exit(main(sys.argv[1:]))
