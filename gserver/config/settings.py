"""All settings: name, default, validator, flags and help text. The flags and docs/settings.md are made from here.

Settings that gunicorn has too keep gunicorn's names. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args

from gserver.config import validators
from gserver.config.addresses import Bind, UnixBind
from gserver.config.hooks import HOOKS, Hooks
from gserver.config.listener_settings import (
    ALLOWED,
    Listener,
    listeners_of_addresses,
    listeners_text,
    parse_listeners,
)
from gserver.config.tls_options import TlsConfig
from gserver.config.validators import Check
from gserver.errors import ConfigError
from gserver.limits.access_list import Network
from gserver.limits.connection_limits import Action, FullAction, RateAction
from gserver.limits.drain_spread import AUTO, LONGEST_S, PER_SECOND, Spread, longest_spread_s

__all__ = ["ACCESS_LOG_FORMAT", "MAX_WORKERS", "WORKERS", "Settings", "declared"]

GREENLETS = ("pooled", "dedicated")
_NEED_CERTFILE = ("keyfile", "ca_certs", "sni", "alpn", "ssl_context")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
CERT_REQS = ("none", "optional", "required")
TLS_VERSIONS = ("1.2", "1.3")
PROXY_MODES = ("off", "v1", "v2", "auto")
RELOAD_ENGINES = ("auto", "watchfiles", "poll")
ACCESS_LOG_FORMAT = '%(h)s %(t)s "%(r)s" %(M)s %(I)s %(O)s %(L)s'
# The scoreboard has twice as many slots: during a reload, two workers may exist for each.
MAX_WORKERS = 500
#: The check of the setting workers, also for the environment variable that is its default.
WORKERS = validators.workers(MAX_WORKERS)


def _setting(
    group: str,
    default: Any,
    check: Check,
    *flags: str,
    help: str,
    flag_help: str | None = None,
    fixed: bool = False,
    per_listener: bool = False,
    **argument: Any,
) -> Any:
    """Return a dataclass field that declares one setting.

    Args:
        help: what the setting does, as docs/settings.md has it.
        flag_help: what the flag does, where that differs: a flag that turns a setting off.
        fixed: a reload cannot change the setting.
        per_listener: an entry of the setting listeners may have its own value.
        argument: further arguments of argparse's add_argument().
    """
    metadata = {
        "group": group,
        "check": check,
        "flags": flags,
        "help": help,
        "flag_help": flag_help or help,
        "fixed": fixed,
        "per_listener": per_listener,
        "argument": argument,
    }
    return dataclasses.field(default=check(default), metadata=metadata)


def _hook(name: str) -> Any:
    parameters, when = HOOKS[name]
    return _setting("Server Hooks", None, validators.function_of(*parameters), help=f"called {when}")


def _checks_of_listeners() -> dict[str, Check]:
    return {each.name: each.metadata["check"] for each in declared() if each.metadata["per_listener"]}


def _listeners(value: Any) -> tuple[Listener, ...]:
    if value is None or value == ():
        return ()
    checks = _checks_of_listeners()
    return parse_listeners(value, checks, {each.name for each in declared()} - set(checks))


#: The check of the setting listeners: it needs those of the settings that a listener may have.
_LISTENERS = Check(ALLOWED, _listeners, lambda value: listeners_text(value, _checks_of_listeners()))


@dataclasses.dataclass(frozen=True)
class Settings:
    """The validated settings of a server. Immutable; build it with Settings.checked()."""

    # fmt: off
    bind: tuple[Bind, ...] = _setting(
        "Server Socket", "127.0.0.1:3000", validators.binds, "-b", "--bind", metavar="ADDRESS", action="append",
        help="address to listen on: HOST:PORT, [V6]:PORT, unix:PATH[,mode=660][,user=NAME][,group=NAME], unix:@NAME "
             "(an abstract socket) or fd://N; may be repeated")
    listeners: tuple[Listener, ...] = _setting(
        "Server Socket", None, _LISTENERS,
        help="several addresses with an application each, instead of bind and APP: address -> app, name, and the "
             "settings marked *(per listener)*, which are inherited if they are missing; only in a config file")
    backlog: int = _setting(
        "Server Socket", 2048, validators.whole(1), "--backlog", metavar="N", fixed=True,
        help="maximum length of the accept queue: connections that are not accepted yet")
    reuse_port: bool = _setting(
        "Server Socket", False, validators.switch, "--reuse-port", action="store_true", fixed=True,
        help="open one listening socket per worker; the kernel distributes new connections among them; without it, all "
             "workers accept from one shared socket")

    tcp_keepalive_idle: int = _setting(
        "Server Socket", 0, validators.whole(0, 32767), "--tcp-keepalive-idle", metavar="SECONDS",
        help="idle time of a TCP connection before the kernel sends the first keepalive probe; 0: the kernel's default")
    tcp_keepalive_interval: int = _setting(
        "Server Socket", 0, validators.whole(0, 32767), "--tcp-keepalive-interval", metavar="SECONDS",
        help="time between two unanswered keepalive probes; 0: the kernel's default")
    tcp_keepalive_count: int = _setting(
        "Server Socket", 0, validators.whole(0, 127), "--tcp-keepalive-count", metavar="N",
        help="number of unanswered keepalive probes after which the kernel ends the connection; 0: the kernel's "
             "default")

    workers: int = _setting(
        "Worker Processes", 1, WORKERS, "-w", "--workers", metavar="N",
        help="number of worker processes; auto: the number of processors that may be used, by CPU affinity and by the "
             "CPU quota of the control group; the environment variable WEB_CONCURRENCY is the default")
    min_workers: int = _setting(
        "Worker Processes", 1, validators.whole(1, MAX_WORKERS), "--min-workers", metavar="N",
        help="number of serving workers below which health checks report the server as not ready; it goes on serving")
    worker_connections: int = _setting(
        "Worker Processes", 10_000, validators.whole(1), "--worker-connections", metavar="N",
        help="maximum number of connections per worker; full_action applies to further ones; the soft limit of open "
             "files is raised as needed, up to the hard limit")
    greenlets: Literal["pooled", "dedicated"] = _setting(
        "Worker Processes", "pooled", validators.one_of(*GREENLETS), "--greenlets", metavar="SHAPE",
        help="pooled: one greenlet per connection that has work; dedicated: one greenlet per connection")
    patch: bool = _setting(
        "Worker Processes", True, validators.switch, "--no-patch", action="store_false",
        help="apply gevent's monkey-patching before the application is imported",
        flag_help="do not apply gevent's monkey-patching before the application is imported")
    preload_app: bool = _setting(
        "Worker Processes", False, validators.switch, "--preload", action="store_true", fixed=True,
        help="import the application once, in a process from which all workers are forked")
    worker_oom_score_adj: int = _setting(
        "Worker Processes", 0, validators.whole(0, 1000), "--worker-oom-score-adj", metavar="N",
        help="how much higher the workers' oom_score_adj is than the arbiter's, up to 1000 in all: when memory runs "
             "out, the kernel kills a worker before the arbiter; each 10 count like 1 %% of the memory of the machine "
             "or the container")
    timeout: float = _setting(
        "Worker Processes", 30, validators.seconds, "-t", "--timeout", metavar="SECONDS",
        help="maximum time without a heartbeat from a worker; then its stacks are logged and it is killed; 0: no limit")

    offload_threads: int = _setting(
        "Offload", 10, validators.whole(0, 1000), "--offload-threads", metavar="N",
        help="threads of each worker for offload.thread(), started with the worker if the application has imported "
             "gserver.offload by then, else with the first call; 0: none, and offload.thread() raises RuntimeError")
    offload_processes: int = _setting(
        "Offload", 0, validators.whole(0, 1000), "--offload-processes", metavar="N",
        help="processes of each worker for offload.process(), started before it is ready; 0: none, and "
             "offload.process() raises RuntimeError")
    offload_queue: int = _setting(
        "Offload", 100, validators.whole(0), "--offload-queue", metavar="N",
        help="number of calls that may wait in each worker for a free thread, and as many for a free process; further "
             "ones raise offload.Full; 0: no call waits")
    offload_max_tasks: int = _setting(
        "Offload", 0, validators.whole(0), "--offload-max-tasks", metavar="N",
        help="number of calls after which a process of the pool is replaced; 0: never")

    bus: str | None = _setting(
        "Bus", None, validators.bus_url, "--bus", metavar="URL",
        help="Redis over which gserver.bus connects the workers of several servers: "
             "redis://[USER:PASSWORD@]HOST:PORT/0, rediss:// for TLS, or unix://PATH; None: the workers of this server "
             "alone, without Redis")
    bus_queue: int = _setting(
        "Bus", "4M", validators.queue_size, "--bus-queue", metavar="BYTES",
        help="size of the messages of gserver.bus that may wait in a worker: to be delivered there, for each other "
             "worker, and for Redis; further ones are dropped; no message may be longer")

    max_requests: int = _setting(
        "Worker Recycling", 0, validators.whole(0), "--max-requests", metavar="N",
        help="number of messages after which a worker is replaced; 0: never")
    max_requests_jitter: int = _setting(
        "Worker Recycling", 0, validators.whole(0), "--max-requests-jitter", metavar="N",
        help="maximum number of messages added to max_requests, at random for each worker")
    worker_max_age: float = _setting(
        "Worker Recycling", 0, validators.seconds, "--worker-max-age", metavar="SECONDS",
        help="age at which a worker is replaced; 0: never")
    worker_max_age_jitter: float = _setting(
        "Worker Recycling", 0, validators.seconds, "--worker-max-age-jitter", metavar="SECONDS",
        help="maximum time added to worker_max_age, at random for each worker")
    worker_max_rss: int = _setting(
        "Worker Recycling", 0, validators.size, "--worker-max-rss", metavar="BYTES",
        help="resident memory at which a worker is replaced, such as 512M; 0: never")
    worker_max_rss_jitter: int = _setting(
        "Worker Recycling", 0, validators.size, "--worker-max-rss-jitter", metavar="BYTES",
        help="maximum memory added to worker_max_rss, at random for each worker")

    ready_timeout: float = _setting(
        "Start, Reload and Stop", 30, validators.seconds, "--ready-timeout", metavar="SECONDS",
        help="maximum time for a new worker to import the application and answer the probe; 0: no limit")
    shutdown_delay: float = _setting(
        "Start, Reload and Stop", 0, validators.seconds, "--shutdown-delay", metavar="SECONDS",
        help="time between TERM and the drain in which the server goes on accepting and serving while health checks "
             "fail, so that load balancers send new clients elsewhere; a second TERM, INT or QUIT ends it; 0: no delay")
    graceful_timeout: float = _setting(
        "Start, Reload and Stop", 30, validators.seconds, "--graceful-timeout", metavar="SECONDS",
        help="maximum time for running handlers to finish when their worker drains, after drain_spread; 0: no time, "
             "and not without a limit as elsewhere: handlers that still run are killed")
    drain_spread: Spread = _setting(
        "Start, Reload and Stop", AUTO, validators.spread, "--drain-spread", metavar="SECONDS",
        help="time over which a draining worker closes its connections, each at a random moment; at most "
             f"graceful_timeout; auto: 1 second per {PER_SECOND} connections, at most {LONGEST_S:g} seconds")
    reload_surge: int = _setting(
        "Start, Reload and Stop", 1, validators.whole(1, MAX_WORKERS), "--reload-surge", metavar="N",
        help="number of replacement workers that are started at a time")
    reload_settle: float = _setting(
        "Start, Reload and Stop", 1, validators.seconds, "--reload-settle", metavar="SECONDS",
        help="time for which the first worker of a reload must stay ready before it accepts connections")

    handshake_timeout: float = _setting(
        "Timeouts", 5, validators.seconds, "--handshake-timeout", metavar="SECONDS", per_listener=True,
        help="maximum time for the PROXY header and the TLS handshake together; 0: no limit")
    first_byte_timeout: float = _setting(
        "Timeouts", 30, validators.seconds, "--first-byte-timeout", metavar="SECONDS", per_listener=True,
        help="maximum time until the first byte is received or sent on a new connection; 0: no limit")
    idle_timeout: float = _setting(
        "Timeouts", 300, validators.seconds, "--idle-timeout", metavar="SECONDS", per_listener=True,
        help="maximum time between two messages without any byte received or sent; 0: no limit")
    read_idle_timeout: float = _setting(
        "Timeouts", 0, validators.seconds, "--read-idle-timeout", metavar="SECONDS", per_listener=True,
        help="maximum time without any byte received, while no handler runs for the connection; sent bytes do not "
             "count; 0: no limit")
    message_timeout: float = _setting(
        "Timeouts", 30, validators.seconds, "--message-timeout", metavar="SECONDS", per_listener=True,
        help="maximum time from the first byte of a message to its last; 0: no limit")
    handler_timeout: float = _setting(
        "Timeouts", 60, validators.seconds, "--handler-timeout", metavar="SECONDS", per_listener=True,
        help="maximum time for a handler that waits (sleep, I/O) until it returns; then it is interrupted and its "
             "connection is closed; 0: no limit")
    write_timeout: float = _setting(
        "Timeouts", 30, validators.seconds, "--write-timeout", metavar="SECONDS", per_listener=True,
        help="maximum time in which the peer accepts none of the bytes to be sent; 0: no limit")
    max_connection_age: float = _setting(
        "Timeouts", 0, validators.seconds, "--max-connection-age", metavar="SECONDS", per_listener=True,
        help="age at which a connection is closed, between two messages; 0: no limit")
    max_connection_age_jitter: float = _setting(
        "Timeouts", 0, validators.seconds, "--max-connection-age-jitter", metavar="SECONDS", per_listener=True,
        help="maximum time added to max_connection_age, at random for each connection")
    block_warning: float = _setting(
        "Timeouts", 0.5, validators.seconds, "--block-warning", metavar="SECONDS",
        help="time for which a handler may compute without yielding to the event loop of its worker before its stack "
             "is logged; 0: never logged")

    max_connections: int = _setting(
        "Limits", 0, validators.whole(0), "--max-connections", metavar="N",
        help="maximum number of connections of all workers together; 0: no limit")
    full_action: FullAction = _setting(
        "Limits", "refuse", validators.one_of(*get_args(FullAction)), "--full-action", metavar="ACTION",
        help="what happens to a new connection above worker_connections or max_connections: refuse (the service may "
             "send the reason, then the new connection is closed), close, or shed (the longest idle connection is "
             "closed instead)")
    max_connections_per_ip: int = _setting(
        "Limits", 0, validators.whole(0), "--max-connections-per-ip", metavar="N",
        help="maximum number of connections from one client address, over all workers; IPv6 addresses count as one if "
             "their first 64 bits are the same; 0: no limit")
    max_connections_per_network: int = _setting(
        "Limits", 0, validators.whole(0), "--max-connections-per-network", metavar="N",
        help="maximum number of connections from one network, over all workers; 0: no limit")
    ipv4_network_bits: int = _setting(
        "Limits", 24, validators.whole(1, 32), "--ipv4-network-bits", metavar="N",
        help="prefix length of a network of IPv4 addresses")
    ipv6_network_bits: int = _setting(
        "Limits", 48, validators.whole(1, 128), "--ipv6-network-bits", metavar="N",
        help="prefix length of a network of IPv6 addresses")
    ip_action: Action = _setting(
        "Limits", "refuse", validators.one_of(*get_args(Action)), "--ip-action", metavar="ACTION",
        help="action on a connection above max_connections_per_ip or max_connections_per_network: refuse or close")
    max_accept_rate: float = _setting(
        "Limits", 0, validators.rate, "--max-accept-rate", metavar="N",
        help="maximum number of new connections per second, divided evenly among the workers; 0: no limit")
    accept_rate_action: Action = _setting(
        "Limits", "refuse", validators.one_of(*get_args(Action)), "--accept-rate-action", metavar="ACTION",
        help="action on a connection above max_accept_rate: refuse or close")
    max_message_rate: float = _setting(
        "Limits", 0, validators.rate, "--max-message-rate", metavar="N",
        help="maximum number of messages per second on one connection; 0: no limit")
    max_byte_rate: float = _setting(
        "Limits", 0, validators.byte_rate, "--max-byte-rate", metavar="BYTES",
        help="maximum number of bytes received per second on one connection, such as 64K; 0: no limit")
    rate_action: RateAction = _setting(
        "Limits", "throttle", validators.one_of(*get_args(RateAction)), "--rate-action", metavar="ACTION",
        help="action on a connection above max_message_rate or max_byte_rate: throttle (it is read at that rate), "
             "refuse or close")
    max_message_size: int = _setting(
        "Limits", 0, validators.size, "--max-message-size", metavar="BYTES",
        help="maximum size of a message, such as 64K; 0: the limit of the service's codec")
    send_buffer_limit: int = _setting(
        "Limits", 1024 * 1024, validators.size, "--send-buffer-limit", metavar="BYTES",
        help="maximum number of bytes that wait to be sent; above it, conn.send_nowait() closes the connection")
    allow: tuple[Network, ...] = _setting(
        "Limits", (), validators.networks, "--allow", metavar="NETWORK", action="append", per_listener=True,
        help="clients that may connect, as a network or an address such as 10.0.0.0/8 or ::1; may be repeated; "
             "default: all")
    deny: tuple[Network, ...] = _setting(
        "Limits", (), validators.networks, "--deny", metavar="NETWORK", action="append", per_listener=True,
        help="clients that may not connect, even if they are in allow; may be repeated")

    certfile: str | None = _setting(
        "TLS", None, validators.optional_text, "--certfile", metavar="FILE", per_listener=True,
        help="PEM file with the certificate and the chain up to its authority; turns TLS on")
    keyfile: str | None = _setting(
        "TLS", None, validators.optional_text, "--keyfile", metavar="FILE", per_listener=True,
        help="PEM file with the private key; default: the certfile")
    keyfile_password: str | None = _setting(
        "TLS", None, validators.password, per_listener=True, help="password of the key files; only in a config file")
    ca_certs: str | None = _setting(
        "TLS", None, validators.optional_text, "--ca-certs", metavar="FILE", per_listener=True,
        help="PEM file with the authorities against which client certificates are verified")
    cert_reqs: Literal["none", "optional", "required"] = _setting(
        "TLS", "none", validators.one_of(*CERT_REQS), "--cert-reqs", metavar="MODE", per_listener=True,
        help="whether clients must present a certificate: none, optional or required")
    sni: tuple[tuple[str, str, str | None], ...] = _setting(
        "TLS", (), validators.sni, "--sni", metavar="NAME=CERTFILE[,KEYFILE]", action="append", per_listener=True,
        help="another certificate, for clients that request this server name; *.example.com stands for all names below "
             "example.com; may be repeated")
    alpn: tuple[str, ...] = _setting(
        "TLS", (), validators.texts, "--alpn", metavar="PROTOCOL", action="append", per_listener=True,
        help="protocol to offer by ALPN, the preferred one first; may be repeated")
    tls_min_version: Literal["1.2", "1.3"] = _setting(
        "TLS", "1.2", validators.one_of(*TLS_VERSIONS), "--tls-min-version", metavar="VERSION", per_listener=True,
        help="lowest version of TLS that is accepted: 1.2 or 1.3")
    ciphers: str | None = _setting(
        "TLS", None, validators.optional_text, "--ciphers", metavar="LIST", per_listener=True,
        help="ciphers for TLS 1.2, as an OpenSSL cipher list; default: ECDHE with AES-GCM or ChaCha20")
    ssl_context: Any = _setting(
        "TLS", None, validators.function_of("config", "default_ssl_context_factory"), per_listener=True,
        help="called when the server starts and when the certificate files have changed; returns the ssl.SSLContext to "
             "use")

    proxy_protocol: Literal["off", "v1", "v2", "auto"] = _setting(
        "PROXY Protocol", "off", validators.one_of(*PROXY_MODES), "--proxy-protocol", metavar="MODE", per_listener=True,
        help="version of HAProxy's PROXY header at the start of each connection: off, v1, v2, or auto (v1 or v2)")
    proxy_allow_ips: tuple[Network, ...] = _setting(
        "PROXY Protocol", ("127.0.0.1", "::1"), validators.networks, "--proxy-allow-from", metavar="NETWORK",
        action="append", per_listener=True,
        help="addresses of the proxies; connections from other addresses are refused; may be repeated")

    reload: bool = _setting(
        "Development", False, validators.switch, "--reload", action="store_true", fixed=True,
        help="reload when a Python file below the working directory changes")
    reload_engine: str = _setting(
        "Development", "auto", validators.one_of(*RELOAD_ENGINES), "--reload-engine", metavar="ENGINE", fixed=True,
        help="how changes are detected: watchfiles (must be installed), poll, or auto (the first that works)")
    reload_extra_files: tuple[str, ...] = _setting(
        "Development", (), validators.texts, "--reload-extra-file", metavar="PATTERN", action="append", fixed=True,
        help="glob pattern of other files to watch for changes; may be repeated")

    chdir: str = _setting(
        "Server Mechanics", ".", validators.directory, "--chdir", metavar="DIR",
        help="working directory; the application is imported from here")
    daemon: bool = _setting(
        "Server Mechanics", False, validators.switch, "-D", "--daemon", action="store_true", fixed=True,
        help="run in the background; the command returns when the server is ready or has failed")
    raw_env: tuple[str, ...] = _setting(
        "Server Mechanics", (), validators.variables, "-e", "--env", metavar="NAME=VALUE", action="append",
        help="environment variable for the workers; may be repeated")
    pidfile: str | None = _setting(
        "Server Mechanics", None, validators.optional_text, "-p", "--pid", metavar="FILE", fixed=True,
        help="file for the arbiter's process id")
    stats_socket: str | None = _setting(
        "Server Mechanics", None, validators.optional_text, "--stats-socket", metavar="PATH", fixed=True,
        help="unix socket (mode 600) that sends the server's counters, as JSON, to each client; read it with gserver "
             "--stats PATH")
    control_socket: UnixBind | None = _setting(
        "Server Mechanics", None, validators.socket_path, "--control-socket", metavar="PATH", fixed=True,
        help="unix socket for gserverctl: PATH[,mode=600][,user=NAME][,group=NAME]; default: "
             "$XDG_RUNTIME_DIR/gserver/PID.ctl, for root /run/gserver/PID.ctl, and none if that cannot be made")
    control_socket_disable: bool = _setting(
        "Server Mechanics", False, validators.switch, "--no-control-socket", action="store_true", fixed=True,
        help="make no control socket")
    metrics_bind: Bind | None = _setting(
        "Server Mechanics", None, validators.optional_bind, "--metrics-bind", metavar="ADDRESS",
        help="address, as for bind, of the metrics for Prometheus (/metrics), the health checks (/livez and /readyz) "
             "and a page for people (/); served by a process of their own; needs prometheus-client "
             "(gserver-tcp[metrics]); default: none")
    user: str | None = _setting(
        "Server Mechanics", None, validators.user_name, "-u", "--user", metavar="USER",
        help="user that the workers run as")
    group: str | None = _setting(
        "Server Mechanics", None, validators.group_name, "-g", "--group", metavar="GROUP",
        help="group that the workers run as")
    initgroups: bool = _setting(
        "Server Mechanics", False, validators.switch, "--initgroups", action="store_true",
        help="give the workers the supplementary groups of their user")
    umask: int | None = _setting(
        "Server Mechanics", None, validators.file_mask, "-m", "--umask", metavar="MASK",
        help="permission bits, in octal, that new files and unix sockets do not get")
    proc_name: str | None = _setting(
        "Server Mechanics", None, validators.optional_text, "-n", "--name", metavar="NAME", fixed=True,
        help="name of the processes in ps and top; needs setproctitle; default: the application")

    errorlog: str = _setting(
        "Logging", "-", validators.optional_text, "--error-logfile", "--log-file", metavar="FILE",
        help="file for the log; -: standard error")
    loglevel: str = _setting(
        "Logging", "info", validators.one_of(*LOG_LEVELS), "--log-level", metavar="LEVEL",
        help=f"lowest level that is logged: {', '.join(LOG_LEVELS)}")
    log_format: Literal["text", "json"] = _setting(
        "Logging", "text", validators.one_of("text", "json"), "--log-format", metavar="FORMAT",
        help="format of both logs: text, or json with one object a line")
    accesslog: str | None = _setting(
        "Logging", None, validators.optional_text, "--access-logfile", metavar="FILE",
        help="file for the access log: one line per closed connection, without health checks of a proxy; -: standard "
             "output")
    access_log_format: str = _setting(
        "Logging", ACCESS_LOG_FORMAT, validators.access_format, "--access-logformat", metavar="FORMAT",
        help="format of the access log: %%(h)s peer, %%(t)s time, %%(r)s close reason, %%(M)s messages, %%(I)s bytes "
             "received, %%(O)s bytes sent, %%(L)s duration of the connection, in seconds, %%(p)s process id, %%(id)s "
             "conn.id, %%(listener)s conn.listener; without effect if log_format is json")
    logconfig_dict: Mapping[str, Any] | None = _setting(
        "Logging", None, validators.log_configuration,
        help="dictionary for logging.config.dictConfig(), applied after all other logging settings")
    capture_output: bool = _setting(
        "Logging", False, validators.switch, "--capture-output", action="store_true", fixed=True,
        help="write the standard output and standard error of the workers to the error log, if that is a file")

    record_mask: Any = _setting(
        "Logging", None, validators.function_of("direction", "data"),
        help="called for each message that gserverctl record writes, with the direction, in or out, and its bytes; "
             "returns the bytes to write instead, such as without secrets")

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
        """Validate `values`, by name, and return the settings. Settings that are missing get their defaults.

        ConfigError names the setting, the value and what is allowed.
        """
        return cls().with_checked(values)

    def with_checked(self, values: Mapping[str, Any]) -> Settings:
        """Validate `values`, by name, and return these settings with them. ConfigError as for checked()."""
        fields = {field.name: field for field in declared()}
        valid = {}
        for name, value in values.items():
            if name not in fields:
                raise ConfigError(_unknown(name, list(fields)))
            try:
                valid[name] = fields[name].metadata["check"](value)
            except ValueError as error:
                raise ConfigError(f"setting {name} is {error}") from None
        if valid.get("listeners"):
            if "bind" in valid:
                raise ConfigError("setting bind cannot be used beside listeners: their addresses are the keys of it")
            valid["bind"] = ()
        settings = dataclasses.replace(self, **valid)
        settings._check_together()
        return settings

    def _check_together(self) -> None:
        """ConfigError for settings that are valid each, but not together."""
        if self.min_workers > self.workers:
            raise ConfigError(
                f"setting min_workers is {self.min_workers}, must be at most workers, which is {self.workers}"
            )
        if isinstance(self.drain_spread, float) and self.drain_spread > self.graceful_timeout:
            raise ConfigError(
                f"setting drain_spread is {self.drain_spread:g}, must be at most graceful_timeout, which is "
                f"{self.graceful_timeout:g}"
            )

    @property
    def hooks(self) -> Hooks:
        return Hooks({name: getattr(self, name) for name in HOOKS})

    @property
    def longest_drain_s(self) -> float:
        """Maximum time for a worker to drain, in seconds: it closes all connections, then running handlers finish."""
        return longest_spread_s(self.drain_spread) + self.graceful_timeout

    @property
    def all_listeners(self) -> tuple[Listener, ...]:
        """What is listened on: the setting listeners, or a listener for each address of bind."""
        return self.listeners or listeners_of_addresses(self.bind)

    @property
    def binds(self) -> tuple[Bind, ...]:
        """The addresses that are listened on."""
        return tuple(listener.bind for listener in self.all_listeners)

    def for_listener(self, listener: Listener) -> Settings:
        """These settings with those that the listener has of its own."""
        return dataclasses.replace(self, **listener.values())

    def tls_of_listeners(self) -> dict[str, TlsConfig]:
        """The TLS settings of the listeners that use TLS, by name. ConfigError as for tls."""
        found: dict[str, TlsConfig] = {}
        for listener in self.all_listeners:
            settings = self.for_listener(listener)
            if settings.certfile is not None:
                found[listener.name] = settings._tls_config(settings.certfile)
                continue
            useless = [name for name, value in listener.own if name in _NEED_CERTFILE and value]
            if useless:
                where = f"setting listeners is wrong in {listener.address!r}"
                raise ConfigError(f"{where}: {useless[0]} has no effect without certfile")
        if not found and self.certfile is None:
            self._check_without_certfile()
        return found

    @property
    def tls(self) -> TlsConfig | None:
        """The TLS settings; None without a certfile. ConfigError if a setting that needs a certfile is set alone."""
        if self.certfile is None:
            self._check_without_certfile()
            return None
        return self._tls_config(self.certfile)

    def _check_without_certfile(self) -> None:
        useless = [name for name in _NEED_CERTFILE if getattr(self, name)]
        if useless:
            raise ConfigError(f"setting {useless[0]} has no effect without certfile")

    def _tls_config(self, certfile: str) -> TlsConfig:
        return TlsConfig(
            certfile=certfile,
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
        """Combine these settings with the fixed ones of `running`, as a reload does.

        Returns the settings to use, and the names of the fixed settings that differ and so are not applied.
        """
        fixed = {field.name: getattr(running, field.name) for field in declared() if field.metadata["fixed"]}
        changed = [name for name, value in fixed.items() if getattr(self, name) != value]
        return dataclasses.replace(self, **fixed), changed


def declared() -> tuple[dataclasses.Field[Any], ...]:
    """Return the settings in the order of the help and of docs/settings.md."""
    return dataclasses.fields(Settings)


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"unknown setting {name!r}" + (f", did you mean {near[0]!r}?" if near else ": see gserver --help")
