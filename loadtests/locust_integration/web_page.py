"""Adds a page to Locust's web UI: live samples of the server, beside Locust's own charts.

    locust -f loadtests/locustfile.py --host tcp://127.0.0.1:3001 --server-pid PID

The page is /server of the web UI. Importing this module registers its options with Locust; tcp_user.py does that.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any, cast

from flask import request
from locust import events
from locust.env import Environment
from locust.web import WebUI

from loadtests.exit_status import EXIT_USAGE
from loadtests.locust_integration.compat import LocustArgumentParser, WorkerRunner
from loadtests.locust_integration.live_samples import Live, sampler_options

__all__: list[str] = []


_log = logging.getLogger(__name__)


@events.init_command_line_parser.add_listener
def _add_arguments(parser: LocustArgumentParser) -> None:
    add = functools.partial(parser.add_argument, include_in_web_ui=False, default="")
    add("--server-pid", metavar="PID", help="Live samples of this process and its children, at /server of the web UI")
    add("--server-sampler", metavar="HOST:PORT", help="The same, from `loadtests sample --listen` on another machine")
    add("--server-stats", metavar="PATH", help="With --server-pid: gserver's stats_socket, for its own counters")


@events.init.add_listener
def _begin(environment: Environment, web_ui: WebUI | None, **_: Any) -> None:
    """Start the sampler and add the page, if an option names the server. Workers of a master have no web UI."""
    options: Any = environment.parsed_options
    if options is None or isinstance(environment.runner, WorkerRunner):
        return
    try:
        chosen = sampler_options(
            options.server_pid, options.server_sampler, options.server_stats, environment.host or ""
        )
        if chosen and web_ui is None:
            raise ValueError("--server-pid and --server-sampler are for the web UI, and this run has none")
    except ValueError as error:
        print(f"loadtests: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    if chosen and web_ui is not None:
        live = Live(chosen)
        events.quitting.add_listener(lambda **_: live.close())  # type: ignore[no-untyped-call]
        _add_page(web_ui, getattr(options, "web_base_path", "") or "", live)


def _add_page(web_ui: WebUI, prefix: str, live: Live) -> None:
    from loadtests.report.live_page import render_live_html  # imports Altair, which takes a second

    def rows() -> dict[str, Any]:
        return live.newer(request.args.get("since", -1.0, float))

    page = render_live_html()  # bundles the chart library, which blocks this process for seconds
    app, allowed = cast(Any, web_ui.app), cast(Any, web_ui.auth_required_if_enabled)
    app.add_url_rule(f"{prefix}/server", "server", allowed(lambda: page))
    app.add_url_rule(f"{prefix}/server/rows", "server_rows", allowed(rows))
    _log.info(f"The server's live samples are at {prefix}/server of the web interface")
