"""The standard users, for plain Locust:

locust -f loadtests/locustfile.py --host tcp://127.0.0.1:3001              a JSON server: JsonUser
locust -f loadtests/locustfile.py EchoUser --host tcp://127.0.0.1:3000     an echo server
locust -f loadtests/locustfile.py --message PING --expect PONG --host ...  any server: MessageUser, with --codec NAME
"""

from __future__ import annotations

import sys
from typing import Any

from loadtests.exit_status import EXIT_USAGE
from loadtests.optional_packages import needs
from loadtests.users.standard_users import EchoUser, JsonUser, MessageUser
from loadtests.workloads.custom_message import parse_message

with needs():
    from locust import events
    from locust.env import Environment

    from loadtests.locust_integration.compat import WorkerRunner

__all__ = ["EchoUser", "JsonUser", "MessageUser"]


@events.init.add_listener
def _choose(environment: Environment, **_: Any) -> None:
    """Choose one user class if none is given, because no server has all protocols.

    With --message it is MessageUser, else JsonUser.
    """
    options: Any = environment.parsed_options
    if isinstance(environment.runner, WorkerRunner):  # its options may not have come from the master yet
        return
    message = getattr(options, "message", "")
    if message:
        try:
            parse_message(message, options.codec, options.expect)
        except ValueError as error:
            print(f"loadtests: {error}", file=sys.stderr)
            sys.exit(EXIT_USAGE)
    if not getattr(options, "user_classes", None) and not getattr(options, "class_picker", False):
        environment.user_classes = [MessageUser if message else JsonUser]
