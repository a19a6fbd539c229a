r"""An internal service with mutual TLS: both sides have a certificate of our own authority.

The certificate names the peer, and each message has a list of the peers that may send it. The settings of TLS are in
mutual_tls.conf.py. Make the authority, and a certificate with its key for the server and for each peer:

    $ sh mutual_tls_certificates.sh localhost billing.internal reports.internal

Start it:

    $ gserver -c mutual_tls.conf.py mutual_tls:app -b 127.0.0.1:3031

Talk to it as two peers:

    $ echo '{"type":"CHARGE","account":"ada","cents":5}' | python -m gserver.client 127.0.0.1:3031 --codec json_lines \
        --tls --ca ca.pem --cert billing.internal.pem --server-name localhost
    {"account":"ada","cents":5}
    $ echo '{"type":"CHARGE","account":"ada","cents":5}' | python -m gserver.client 127.0.0.1:3031 --codec json_lines \
        --tls --ca ca.pem --cert reports.internal.pem --server-name localhost
    {"status":"ERROR","message":"reports.internal may not send CHARGE"}

Load it with a user that has a certificate:

    $ loadtests run json --host tls://127.0.0.1:3031 --file mutual_tls_load.py --user Reports
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from gserver import Connection, JsonService

log = logging.getLogger("mutual_tls")


class Charge(msgspec.Struct, tag="CHARGE"):
    account: str
    cents: Annotated[int, msgspec.Meta(gt=0, le=1_000_000)]


class Balance(msgspec.Struct, tag="BALANCE"):
    account: str


class Account(msgspec.Struct):
    account: str
    cents: int


def opened(conn: Connection) -> None:
    """Find the name of the peer. If there is none, the exception closes the connection."""
    names = conn.tls.peer_certificate["subjectAltName"]
    conn.session = next(name for kind, name in names if kind == "DNS")


def only(*peers: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Call the handler for these peers, and refuse the message of every other one."""

    def decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(handler)
        def checked(message: Any, conn: Connection) -> Any:
            if conn.session in peers:
                return handler(message, conn)
            refusal = f"{conn.session} may not send {message.__struct_config__.tag}"
            log.warning("%s: %s", conn.id, refusal)
            return {"status": "ERROR", "message": refusal}

        return checked

    return decorate


cents: dict[str, int] = {}
app = JsonService(on_open=opened)


@app.on
@only("billing.internal")
def charge(message: Charge, conn: Connection) -> Account:
    cents[message.account] = cents.get(message.account, 0) + message.cents
    return Account(message.account, cents[message.account])


@app.on
@only("billing.internal", "reports.internal")
def balance(message: Balance, conn: Connection) -> Account:
    return Account(message.account, cents.get(message.account, 0))
