"""Run gevent.tests.test__server with TcpServer instead of StreamServer: python gevent_server_tests.py."""

from __future__ import annotations

import gevent.testing as greentest
from gevent.tests import test__server
from gevent.tests.test__server import *  # noqa: F403  # main() looks for the test cases in this module

from gserver.server.tcp_server import TcpServer


class CountingServer(TcpServer):
    """The server for tests that pass a handler."""


class SimpleCountingServer(CountingServer):
    """The server for tests that use gevent's own handler."""

    handle = test__server.SimpleStreamServer.handle


test__server.Settings.ServerClass = CountingServer
test__server.Settings.ServerSubClass = SimpleCountingServer

if __name__ == "__main__":
    greentest.main()
