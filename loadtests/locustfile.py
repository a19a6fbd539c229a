"""The stock scenarios, for plain Locust:

locust -f loadtests/locustfile.py --host tcp://127.0.0.1:3001              a JSON server: JsonUser
locust -f loadtests/locustfile.py EchoUser --host tcp://127.0.0.1:3000     an echo server
"""

from __future__ import annotations

from typing import Any

from locust import events
from locust.env import Environment

from loadtests.users import EchoUser, JsonUser

__all__ = ["EchoUser", "JsonUser"]


@events.init.add_listener
def _json_unless_asked(environment: Environment, **_: Any) -> None:
    """No server speaks both protocols: where nobody chose a user class, it is JsonUser."""
    options = environment.parsed_options
    if not getattr(options, "user_classes", None) and not getattr(options, "class_picker", False):
        environment.user_classes = [JsonUser]
