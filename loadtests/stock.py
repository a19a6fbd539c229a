"""The public import path of EchoUser, JsonUser and MessageUser."""

from loadtests.users.standard_users import EchoUser, JsonUser, MessageUser

__all__ = ["EchoUser", "JsonUser", "MessageUser"]
