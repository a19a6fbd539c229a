"""A user for `loadtests run --file`: a peer of mutual_tls.py that reads a balance, and checks each reply."""

from __future__ import annotations

import ssl

from locust import task

from gserver import JsonLines
from loadtests.users import TcpUser


class Reports(TcpUser):
    codec = JsonLines
    ssl_context = ssl.create_default_context(cafile="ca.pem")
    ssl_context.check_hostname = False  # the server's certificate is for localhost, and --host is 127.0.0.1
    ssl_context.load_cert_chain("reports.internal.pem")

    @task
    def balance(self) -> None:
        self.exchange("balance", {"type": "BALANCE", "account": "bob"}, {"account": "bob", "cents": 0})
