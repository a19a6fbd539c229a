"""gserver [OPTIONS] APP: from argv to settings to the arbiter."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import gserver
from gserver import logs
from gserver.application import parse_application
from gserver.arbiter.arbiter import Arbiter
from gserver.arbiter.worker import run_worker
from gserver.errors import ConfigError
from gserver.settings import Settings, add_arguments, read_config_file

__all__ = ["entry_point", "main"]

log = logging.getLogger("gserver")


def main(argv: Sequence[str]) -> int:
    """Run the server that `argv` describes, until it is told to stop; return the exit status."""
    try:
        return _serve(_parser().parse_args(argv))
    except ConfigError as error:
        print(f"gserver: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while it still waited for an address
        return 128 + signal.SIGINT


def entry_point() -> NoReturn:
    """The command `gserver`."""
    sys.exit(main(sys.argv[1:]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gserver",
        usage="gserver [OPTIONS] APP",
        description="Serve raw TCP: APP is MODULE:NAME, MODULE:FACTORY(ARGS), or a built-in service: echo, json.",
    )
    parser.add_argument("app", metavar="APP", help="the application to serve")
    parser.add_argument("-c", "--config", metavar="FILE", help="a Python file whose names are settings")
    parser.add_argument("-v", "--version", action="version", version=f"gserver {gserver.__version__}")
    add_arguments(parser)
    return parser


def _serve(arguments: argparse.Namespace) -> int:
    values = vars(arguments)
    app, config = values.pop("app"), values.pop("config")
    settings = Settings.checked({**(read_config_file(config) if config else {}), **values})
    application = parse_application(app)
    os.chdir(settings.chdir)
    logs.configure(settings.loglevel)
    log.info("Starting gserver %s", gserver.__version__)
    return Arbiter(settings, functools.partial(run_worker, settings, application)).run()
