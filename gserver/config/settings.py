"""Every setting, declared once: name, default, check, flags, help. Flags, tables and checks are made from here.

The names are gunicorn's wherever gunicorn has the thing. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args

from gserver.config import validators as checks
from gserver.config.addresses import Bind
from gserver.config.hooks import HOOKS, Hooks
from gserver.config.tls_options import TlsConfig
from gserver.config.validators import Check
from gserver.errors import ConfigError
from gserver.limits.access_list import Network
from gserver.limits.connection_limits import Action, FullAction, RateAction
from gserver.limits.drain_spread import AUTO, LONGEST_S, PER_SECOND, Spread, longest_spread_s

__all__ = ["ACCESS_LOG_FORMAT", "MAX_WORKERS", "Settings", "declared"]

GREENLETS = ("pooled", "dedicated")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
CERT_REQS = ("none", "optional", "required")
TLS_VERSIONS = ("1.2", "1.3")
PROXY_MODES = ("off", "v1", "v2", "auto")
RELOAD_ENGINES = ("auto", "watchfiles", "poll")
ACCESS_LOG_FORMAT = '%(h)s %(t)s "%(r)s" %(M)s %(I)s %(O)s %(L)s'
# The scoreboard has twice as many places, for a reload may hold two workers for each.
MAX_WORKERS = 500


def _setting(
    group: str, default: Any, check: Check, *flags: str, help: str, fixed: bool = False, **argument: Any
) -> Any:
    """A field. `fixed`: a reload cannot change it. `argument`: what argparse needs beside."""
    metadata = {"group": group, "check": check, "flags": flags, "help": help, "fixed": fixed, "argument": argument}
    return dataclasses.field(default=check(default), metadata=metadata)


def _hook(name: str) -> Any:
    parameters, when = HOOKS[name]
    return _setting("Hooks", None, checks.function_of(*parameters), help=f"called {when}")


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings, checked."""

    # fmt: off
    bind: tuple[Bind, ...] = _setting(
        "Sockets", "127.0.0.1:3000", checks.binds, "-b", "--bind", metavar="ADDRESS", action="append",
        help="where to listen: HOST:PORT, [V6]:PORT, unix:PATH[,mode=660][,user=NAME][,group=NAME], unix:@NAME (an "
             "abstract socket) or fd://N; may be repeated")
    backlog: int = _setting(
        "Sockets", 2048, checks.whole(1), "--backlog", metavar="N", fixed=True,
        help="connections that may wait to be accepted")
    reuse_port: bool = _setting(
        "Sockets", False, checks.switch, "--reuse-port", action="store_true", fixed=True,
        help="a listening socket for each worker, among which the kernel spreads new connections, instead of one that "
             "they share and take in turns")

    tcp_keepalive_idle: int = _setting(
        "Sockets", 0, checks.whole(0, 32767), "--tcp-keepalive-idle", metavar="SECONDS",
        help="how long a TCP connection is silent before the kernel probes its peer; 0, here and below: the kernel's "
             "own choice")
    tcp_keepalive_interval: int = _setting(
        "Sockets", 0, checks.whole(0, 32767), "--tcp-keepalive-interval", metavar="SECONDS",
        help="how long the kernel waits from one unanswered probe to the next")
    tcp_keepalive_count: int = _setting(
        "Sockets", 0, checks.whole(0, 127), "--tcp-keepalive-count", metavar="N",
        help="how many unanswered probes end the connection")

    workers: int = _setting(
        "Workers", 1, checks.whole(1, MAX_WORKERS), "-w", "--workers", metavar="N", help="worker processes")
    worker_connections: int = _setting(
        "Workers", 10_000, checks.whole(1), "--worker-connections", metavar="N",
        help="connections that a worker holds at most; one more is met with full_action; the soft limit of open "
             "files is raised to what they need, as far as the hard limit allows")
    max_requests: int = _setting(
        "Workers", 0, checks.whole(0), "--max-requests", metavar="N",
        help="messages after which a worker is replaced; 0: never")
    max_requests_jitter: int = _setting(
        "Workers", 0, checks.whole(0), "--max-requests-jitter", metavar="N",
        help="up to so many messages more, at random for each worker")
    worker_max_age: float = _setting(
        "Workers", 0, checks.seconds, "--worker-max-age", metavar="SECONDS",
        help="age at which a worker is replaced; 0: never")
    worker_max_age_jitter: float = _setting(
        "Workers", 0, checks.seconds, "--worker-max-age-jitter", metavar="SECONDS",
        help="up to so much older, at random for each worker")
    worker_max_rss: int = _setting(
        "Workers", 0, checks.size, "--worker-max-rss", metavar="BYTES",
        help="resident memory at which a worker is replaced, such as 512M; 0: never")
    worker_max_rss_jitter: int = _setting(
        "Workers", 0, checks.size, "--worker-max-rss-jitter", metavar="BYTES",
        help="up to so much more, at random for each worker")
    timeout: float = _setting(
        "Workers", 30, checks.seconds, "-t", "--timeout", metavar="SECONDS",
        help="how long a worker may be deaf before its stacks are logged and it is killed; 0: for ever")
    ready_timeout: float = _setting(
        "Workers", 30, checks.seconds, "--ready-timeout", metavar="SECONDS",
        help="how long a new worker may take to import the application and answer its probe; 0: for ever")
    graceful_timeout: float = _setting(
        "Workers", 30, checks.seconds, "--graceful-timeout", metavar="SECONDS",
        help="how long handlers may take to finish when their worker drains")
    drain_spread: Spread = _setting(
        "Workers", AUTO, checks.spread, "--drain-spread", metavar="SECONDS",
        help="over how long a draining worker closes its connections, each at a random moment; auto: a second for "
             f"each {PER_SECOND} of them, {LONGEST_S:g} at most")
    reload_surge: int = _setting(
        "Workers", 1, checks.whole(1, MAX_WORKERS), "--reload-surge", metavar="N",
        help="workers that are started at a time to replace others")
    reload_settle: float = _setting(
        "Workers", 1, checks.seconds, "--reload-settle", metavar="SECONDS",
        help="how long the first worker of a reload must stay alive, ready, before it takes connections")
    preload_app: bool = _setting(
        "Workers", False, checks.switch, "--preload", action="store_true", fixed=True,
        help="import the application once, in a process that all workers are forked from")
    greenlets: Literal["pooled", "dedicated"] = _setting(
        "Workers", "pooled", checks.one_of(*GREENLETS), "--greenlets", metavar="SHAPE",
        help="pooled: a greenlet for every connection that has work; dedicated: for every connection")
    patch: bool = _setting(
        "Workers", True, checks.switch, "--no-patch", action="store_false",
        help="do not apply gevent's monkey-patching before the application is imported")

    handshake_timeout: float = _setting(
        "Deadlines", 5, checks.seconds, "--handshake-timeout", metavar="SECONDS",
        help="how long the PROXY header and the TLS handshake may take together; 0, here and below: for ever")
    first_byte_timeout: float = _setting(
        "Deadlines", 30, checks.seconds, "--first-byte-timeout", metavar="SECONDS",
        help="how long a new connection may be silent, on both sides")
    idle_timeout: float = _setting(
        "Deadlines", 300, checks.seconds, "--idle-timeout", metavar="SECONDS",
        help="how long nothing may come or go between two messages")
    read_idle_timeout: float = _setting(
        "Deadlines", 0, checks.seconds, "--read-idle-timeout", metavar="SECONDS",
        help="how long a peer may send nothing, whatever is sent to it, while no handler works for it")
    message_timeout: float = _setting(
        "Deadlines", 30, checks.seconds, "--message-timeout", metavar="SECONDS",
        help="how long a message may take from its first byte to its last")
    handler_timeout: float = _setting(
        "Deadlines", 60, checks.seconds, "--handler-timeout", metavar="SECONDS",
        help="how long a handler may block before it is interrupted and its connection closed")
    write_timeout: float = _setting(
        "Deadlines", 30, checks.seconds, "--write-timeout", metavar="SECONDS",
        help="how long a peer may take nothing of what is to be sent to it")
    max_connection_age: float = _setting(
        "Deadlines", 0, checks.seconds, "--max-connection-age", metavar="SECONDS",
        help="age at which a connection is closed, between two messages")
    max_connection_age_jitter: float = _setting(
        "Deadlines", 0, checks.seconds, "--max-connection-age-jitter", metavar="SECONDS",
        help="up to so much older, at random for each connection")

    max_connections: int = _setting(
        "Limits", 0, checks.whole(0), "--max-connections", metavar="N",
        help="connections that all workers together hold at most; 0, here and below: no limit")
    full_action: FullAction = _setting(
        "Limits", "refuse", checks.one_of(*get_args(FullAction)), "--full-action", metavar="ACTION",
        help="what happens at worker_connections and max_connections: refuse (the service says why, and closes), "
             "close, or shed (the longest idle connection is closed instead)")
    max_connections_per_ip: int = _setting(
        "Limits", 0, checks.whole(0), "--max-connections-per-ip", metavar="N",
        help="connections of one client address at most, over all workers")
    max_connections_per_network: int = _setting(
        "Limits", 0, checks.whole(0), "--max-connections-per-network", metavar="N",
        help="connections of one network at most, over all workers")
    ipv4_network_bits: int = _setting(
        "Limits", 24, checks.whole(1, 32), "--ipv4-network-bits", metavar="N",
        help="how much of an IPv4 address is its network")
    ipv6_network_bits: int = _setting(
        "Limits", 48, checks.whole(1, 128), "--ipv6-network-bits", metavar="N",
        help="how much of an IPv6 address is its network; as an address counts what its first 64 bits are")
    ip_action: Action = _setting(
        "Limits", "refuse", checks.one_of(*get_args(Action)), "--ip-action", metavar="ACTION",
        help="what happens to one connection too many of an address or a network: refuse or close")
    max_accept_rate: float = _setting(
        "Limits", 0, checks.rate, "--max-accept-rate", metavar="N",
        help="new connections a second at most, over all workers, which share it evenly")
    accept_rate_action: Action = _setting(
        "Limits", "refuse", checks.one_of(*get_args(Action)), "--accept-rate-action", metavar="ACTION",
        help="what happens to those beyond it: refuse or close")
    max_message_rate: float = _setting(
        "Limits", 0, checks.rate, "--max-message-rate", metavar="N",
        help="messages a second at most on one connection")
    max_byte_rate: float = _setting(
        "Limits", 0, checks.rate, "--max-byte-rate", metavar="BYTES",
        help="bytes a second at most that are received on one connection")
    rate_action: RateAction = _setting(
        "Limits", "throttle", checks.one_of(*get_args(RateAction)), "--rate-action", metavar="ACTION",
        help="what happens to a connection that sends faster: throttle (it is read no faster), refuse or close")
    max_message_size: int = _setting(
        "Limits", 0, checks.size, "--max-message-size", metavar="BYTES",
        help="longest message that is accepted; 0: what the service's codec says")
    send_buffer_limit: int = _setting(
        "Limits", 1024 * 1024, checks.size, "--send-buffer-limit", metavar="BYTES",
        help="bytes that may wait for a peer to take them before conn.send_nowait() closes its connection")
    allow: tuple[Network, ...] = _setting(
        "Limits", (), checks.networks, "--allow", metavar="NETWORK", action="append",
        help="addresses that may connect, such as 10.0.0.0/8 or ::1; may be repeated; none: all")
    deny: tuple[Network, ...] = _setting(
        "Limits", (), checks.networks, "--deny", metavar="NETWORK", action="append",
        help="addresses that may not, even if they are allowed; may be repeated")
    block_warning: float = _setting(
        "Limits", 0.5, checks.seconds, "--block-warning", metavar="SECONDS",
        help="how long a handler may keep the whole worker from its other connections before its stack is logged; "
             "0: it never is")

    certfile: str | None = _setting(
        "TLS", None, checks.optional_text, "--certfile", metavar="FILE",
        help="certificate, and what leads from it to its authority, in PEM; with it, connections are TLS")
    keyfile: str | None = _setting(
        "TLS", None, checks.optional_text, "--keyfile", metavar="FILE",
        help="its private key, in PEM; default: in certfile")
    keyfile_password: str | None = _setting(
        "TLS", None, checks.password, help="the password of the key files; only in a config file")
    ca_certs: str | None = _setting(
        "TLS", None, checks.optional_text, "--ca-certs", metavar="FILE",
        help="authorities that client certificates are checked against, in PEM")
    cert_reqs: Literal["none", "optional", "required"] = _setting(
        "TLS", "none", checks.one_of(*CERT_REQS), "--cert-reqs", metavar="WHAT",
        help="whether clients must show a certificate: none, optional or required")
    sni: tuple[tuple[str, str, str | None], ...] = _setting(
        "TLS", (), checks.sni, "--sni", metavar="NAME=CERTFILE[,KEYFILE]", action="append",
        help="another certificate, for clients that ask for this name; *.example.com stands for all names below "
             "example.com; may be repeated")
    alpn: tuple[str, ...] = _setting(
        "TLS", (), checks.texts, "--alpn", metavar="PROTOCOL", action="append",
        help="a protocol to offer by ALPN, the best first; may be repeated")
    tls_min_version: Literal["1.2", "1.3"] = _setting(
        "TLS", "1.2", checks.one_of(*TLS_VERSIONS), "--tls-min-version", metavar="VERSION",
        help="the lowest version of TLS: 1.2 or 1.3")
    ciphers: str | None = _setting(
        "TLS", None, checks.optional_text, "--ciphers", metavar="LIST",
        help="what TLS 1.2 may use, in OpenSSL's words; default: ECDHE with AES-GCM or ChaCha20")
    ssl_context: Any = _setting(
        "TLS", None, checks.function_of("config", "default_ssl_context_factory"),
        help="called when the server starts and when the files have changed; returns the ssl.SSLContext to use")

    proxy_protocol: Literal["off", "v1", "v2", "auto"] = _setting(
        "PROXY protocol", "off", checks.one_of(*PROXY_MODES), "--proxy-protocol", metavar="MODE",
        help="with which version of HAProxy's PROXY header each connection begins: off, v1, v2, or auto (either)")
    proxy_allow_ips: tuple[Network, ...] = _setting(
        "PROXY protocol", ("127.0.0.1", "::1"), checks.networks, "--proxy-allow-from", metavar="NETWORK",
        action="append", help="the proxies; whoever connects from elsewhere is refused; may be repeated")

    reload: bool = _setting(
        "Development", False, checks.switch, "--reload", action="store_true", fixed=True,
        help="reload whenever a Python file under the working directory changes")
    reload_engine: str = _setting(
        "Development", "auto", checks.one_of(*RELOAD_ENGINES), "--reload-engine", metavar="ENGINE", fixed=True,
        help="watchfiles (must be installed), poll, or auto: the first that works")
    reload_extra_files: tuple[str, ...] = _setting(
        "Development", (), checks.texts, "--reload-extra-file", metavar="PATTERN", action="append", fixed=True,
        help="other files whose change reloads, as a glob pattern; may be repeated")

    chdir: str = _setting(
        "Process", ".", checks.directory, "--chdir", metavar="DIR", help="where the application is imported from")
    daemon: bool = _setting(
        "Process", False, checks.switch, "-D", "--daemon", action="store_true", fixed=True,
        help="go to the background; the command returns when the server is ready, or has failed")
    raw_env: tuple[str, ...] = _setting(
        "Process", (), checks.variables, "-e", "--env", metavar="NAME=VALUE", action="append",
        help="an environment variable for the workers; may be repeated")
    pidfile: str | None = _setting(
        "Process", None, checks.optional_text, "-p", "--pid", metavar="FILE", fixed=True,
        help="where the arbiter's process id is written")
    stats_socket: str | None = _setting(
        "Process", None, checks.optional_text, "--stats-socket", metavar="PATH", fixed=True,
        help="a unix socket, of mode 600, that tells whoever connects what the server has counted, in JSON; "
             "gserver --stats PATH prints it, and fails if no worker serves")
    user: str | None = _setting(
        "Process", None, checks.user_name, "-u", "--user", metavar="USER", help="whom the workers run as")
    group: str | None = _setting(
        "Process", None, checks.group_name, "-g", "--group", metavar="GROUP", help="which group the workers run as")
    initgroups: bool = _setting(
        "Process", False, checks.switch, "--initgroups", action="store_true",
        help="give the workers the further groups of their user")
    umask: int | None = _setting(
        "Process", None, checks.file_mask, "-m", "--umask", metavar="MASK",
        help="permission bits, octal, that new files and unix sockets do not get")
    proc_name: str | None = _setting(
        "Process", None, checks.optional_text, "-n", "--name", metavar="NAME", fixed=True,
        help="what the processes are called in ps and top; needs setproctitle; default: the application")

    errorlog: str = _setting(
        "Logging", "-", checks.optional_text, "--error-logfile", "--log-file", metavar="FILE",
        help="where the log goes; -: standard error")
    loglevel: str = _setting(
        "Logging", "info", checks.one_of(*LOG_LEVELS), "--log-level", metavar="LEVEL",
        help=f"one of {', '.join(LOG_LEVELS)}")
    accesslog: str | None = _setting(
        "Logging", None, checks.optional_text, "--access-logfile", metavar="FILE",
        help="where a line for each closed connection goes; -: standard output")
    access_log_format: str = _setting(
        "Logging", ACCESS_LOG_FORMAT, checks.access_format, "--access-logformat", metavar="FORMAT",
        help="its form: %%(h)s peer, %%(t)s time, %%(r)s reason, %%(M)s messages, %%(I)s and %%(O)s bytes in and out, "
             "%%(L)s seconds of life, %%(p)s process")
    logconfig_dict: Mapping[str, Any] | None = _setting(
        "Logging", None, checks.log_configuration,
        help="logging.config.dictConfig() gets it, after everything else is set up")
    capture_output: bool = _setting(
        "Logging", False, checks.switch, "--capture-output", action="store_true", fixed=True,
        help="standard output and error of the workers go to the error log")

    on_starting: Any = _hook("on_starting")
    when_ready: Any = _hook("when_ready")
    pre_fork: Any = _hook("pre_fork")
    post_fork: Any = _hook("post_fork")
    post_worker_init: Any = _hook("post_worker_init")
    worker_int: Any = _hook("worker_int")
    worker_abort: Any = _hook("worker_abort")
    worker_exit: Any = _hook("worker_exit")
    child_exit: Any = _hook("child_exit")
    nworkers_changed: Any = _hook("nworkers_changed")
    on_reload: Any = _hook("on_reload")
    pre_exec: Any = _hook("pre_exec")
    on_exit: Any = _hook("on_exit")
    connection_open: Any = _hook("connection_open")
    connection_close: Any = _hook("connection_close")
    # fmt: on

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Settings:
        """Return the settings with these values; ConfigError names the setting, the value and what is allowed."""
        fields = {field.name: field for field in declared()}
        good = {}
        for name, value in values.items():
            if name not in fields:
                raise ConfigError(_unknown(name, list(fields)))
            try:
                good[name] = fields[name].metadata["check"](value)
            except ValueError as error:
                raise ConfigError(f"setting {name} is {error}") from None
        return cls(**good)

    @property
    def hooks(self) -> Hooks:
        return Hooks({name: getattr(self, name) for name in HOOKS})

    @property
    def longest_drain_s(self) -> float:
        """How long a worker may take to drain: to close all connections, and then for the handlers that still run."""
        return longest_spread_s(self.drain_spread) + self.graceful_timeout

    @property
    def tls(self) -> TlsConfig | None:
        """What the certificates are; None without TLS. ConfigError if something is said of TLS, and no certificate."""
        if self.certfile is None:
            said = [name for name in ("keyfile", "ca_certs", "sni", "alpn", "ssl_context") if getattr(self, name)]
            if said:
                raise ConfigError(f"setting {said[0]} is of no use without certfile")
            return None
        return TlsConfig(
            certfile=self.certfile,
            keyfile=self.keyfile,
            keyfile_password=self.keyfile_password,
            ca_certs=self.ca_certs,
            cert_reqs=self.cert_reqs,
            sni=self.sni,
            alpn=self.alpn,
            min_version=self.tls_min_version,
            ciphers=self.ciphers,
            ssl_context=self.ssl_context,
        )

    def with_fixed_of(self, running: Settings) -> tuple[Settings, list[str]]:
        """These settings as a server that runs with `running` can take them over, and the names that it cannot."""
        fixed = {field.name: getattr(running, field.name) for field in declared() if field.metadata["fixed"]}
        changed = [name for name, value in fixed.items() if getattr(self, name) != value]
        return dataclasses.replace(self, **fixed), changed


def declared() -> tuple[dataclasses.Field[Any], ...]:
    """The settings, in the order in which they are explained."""
    return dataclasses.fields(Settings)


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"unknown setting {name!r}" + (f", did you mean {near[0]!r}?" if near else ": see gserver --help")
