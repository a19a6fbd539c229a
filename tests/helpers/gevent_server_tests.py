"""Runs gevent.tests.test__server with TcpServer in the place of StreamServer: python gevent_server_tests.py."""

from __future__ import annotations

import gevent.testing as greentest
from gevent.tests import test__server
from gevent.tests.test__server import *  # noqa: F403  # the test cases, which main() looks for in this module

from gserver.server.tcp_server import TcpServer


class CountingServer(TcpServer):
    """What gevent's tests make where they give a handler."""


class SimpleCountingServer(CountingServer):
    """What they make where they want the handler of theirs."""

    handle = test__server.SimpleStreamServer.handle


test__server.Settings.ServerClass = CountingServer
test__server.Settings.ServerSubClass = SimpleCountingServer

if __name__ == "__main__":
    greentest.main()
