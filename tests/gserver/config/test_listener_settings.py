"""The setting listeners: each fault is named with the listener, the key, the value and what is allowed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gserver.config.addresses import FdBind, TcpBind, UnixBind
from gserver.config.listener_settings import MAX_LISTENERS, Listener, with_passed_sockets
from gserver.config.settings import Settings, declared
from gserver.config.sources import Configuration, as_text_without_secrets
from gserver.errors import ConfigError

A, B = "0.0.0.0:5000", "127.0.0.1:5001"
APP = {"app": "shop:devices"}
WRONG = f"setting listeners is wrong in {A!r}: "


def checked(listeners: Any, **values: Any) -> Settings:
    return Settings.checked({"listeners": listeners, **values})


def refusal(listeners: Any, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        checked(listeners, **values)
    return str(caught.value)


def printed(settings: Settings) -> str:
    (setting,) = [each for each in declared() if each.name == "listeners"]
    return as_text_without_secrets(setting, settings.listeners)


def test_an_entry_is_a_listener_with_its_own_settings() -> None:
    settings = checked({A: {**APP, "name": "devices", "idle_timeout": "600"}, B: {"app": "shop:admin"}})

    assert settings.listeners == (
        Listener(TcpBind("0.0.0.0", 5000), "devices", "shop:devices", (("idle_timeout", 600.0),), A, True),
        Listener(TcpBind("127.0.0.1", 5001), B, "shop:admin", (), B, True),
    )
    assert settings.binds == (TcpBind("0.0.0.0", 5000), TcpBind("127.0.0.1", 5001))
    assert settings.bind == ()


def test_what_a_listener_does_not_have_is_inherited() -> None:
    settings = checked({A: {**APP, "idle_timeout": 600, "deny": "::1"}, B: APP}, idle_timeout=20, write_timeout=7)
    first, second = map(settings.for_listener, settings.listeners)

    assert (first.idle_timeout, first.write_timeout, [*map(str, first.deny)]) == (600.0, 7.0, ["::1/128"])
    assert (second.idle_timeout, second.write_timeout, second.deny) == (20.0, 7.0, ())


def test_a_listener_with_a_certificate_does_not_inherit_the_key_of_another() -> None:
    settings = checked(
        {A: {**APP, "certfile": "own.pem"}, B: APP, "[::1]:1": {**APP, "certfile": "c", "keyfile": "k"}},
        certfile="all.pem",
        keyfile="all.key",
        alpn=["x"],
    )
    own, inherited, both = (settings.tls_of_listeners()[listener.name] for listener in settings.listeners)

    assert (own.certfile, own.keyfile, own.alpn) == ("own.pem", None, ("x",))
    assert (inherited.certfile, inherited.keyfile) == ("all.pem", "all.key")
    assert (both.certfile, both.keyfile) == ("c", "k")


def test_a_listener_may_be_without_the_tls_of_the_others() -> None:
    settings = checked({A: {**APP, "certfile": None}, B: APP}, certfile="all.pem", keyfile="all.key")

    assert set(settings.tls_of_listeners()) == {B}


def test_tls_settings_may_stand_beside_certificates_of_listeners() -> None:
    settings = checked({A: {**APP, "certfile": "own.pem"}, B: APP}, alpn=["x"])

    assert set(settings.tls_of_listeners()) == {A}


def test_tls_settings_without_any_certificate_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^setting alpn has no effect without certfile$"):
        checked({A: APP}, alpn=["x"]).tls_of_listeners()
    with pytest.raises(ConfigError) as caught:
        checked({A: {**APP, "keyfile": "k"}, B: {**APP, "certfile": "c"}}).tls_of_listeners()
    assert str(caught.value) == WRONG + "keyfile has no effect without certfile"


def test_without_the_setting_each_address_is_a_listener_that_is_named_by_it() -> None:
    settings = Settings.checked({"bind": ["127.0.0.1:1", "unix:a"], "certfile": "c"})

    assert settings.all_listeners == (
        Listener(TcpBind("127.0.0.1", 1), "127.0.0.1:1", address="127.0.0.1:1"),
        Listener(UnixBind("a"), "unix:a", address="unix:a"),
    )
    assert [listener.app for listener in settings.all_listeners] == [None, None]
    assert set(settings.tls_of_listeners()) == {"127.0.0.1:1", "unix:a"}
    assert Settings.checked({"listeners": None}) == Settings()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({}, "setting listeners is {}, must be a dictionary such as {"),
        ([A], "setting listeners is a value of type list, must be a dictionary such as {"),
        ("shop:a", "setting listeners is a value of type str, must be a dictionary such as {"),
        ({5000: APP}, "setting listeners is wrong in 5000: the key must be an address, as text"),
        ({"x": APP}, "setting listeners is wrong in 'x': 'x' has no port: expected HOST:PORT, [V6]:PORT, "),
        ({A: "shop:a"}, WRONG + "the value is of type str, must be a dictionary with an app"),
        ({A: {}}, WRONG + "app is missing, must be MODULE:NAME, MODULE:FACTORY(ARGS), echo or json"),
        ({A: {"app": 3}}, WRONG + "app is 3, must be text such as MODULE:NAME"),
        ({A: {"app": "shop"}}, WRONG + "application 'shop': expected MODULE:NAME, MODULE:FACTORY(ARGS) or one of "),
        ({A: {"app": "s:a b"}}, WRONG + "application 's:a b': 'a b' is neither a name nor a call"),
        ({A: {**APP, "name": "a b"}}, WRONG + "name is 'a b', must be text of letters, digits, and - _ . : only"),
        ({A: {**APP, "name": ""}}, WRONG + "name is '', must be text of letters"),
        ({A: {**APP, "name": "ü"}}, WRONG + "name is 'ü', must be text of letters"),
        ({A: {**APP, "name": None}}, WRONG + "name is None, must be text of letters"),
        ({A: {**APP, "idle_timout": 3}}, WRONG + "unknown key 'idle_timout', did you mean 'idle_timeout'?"),
        ({A: {**APP, "zzz": 3}}, WRONG + "unknown key 'zzz', must be one of app, name, handshake_timeout, "),
        ({A: dict[Any, Any](APP) | {7: 3}}, WRONG + "unknown key 7, must be one of app, name, "),
        ({A: {**APP, "idle_timeout": -1}}, WRONG + "idle_timeout is -1, must be a number of seconds, 0 or more"),
        ({A: {**APP, "deny": "x"}}, WRONG + "deny is 'x', must be a network such as 10.0.0.0/8 or ::1"),
        ({A: {**APP, "workers": 2}}, WRONG + "workers is a setting of the whole server: set it beside listeners, not "),
        ({A: {**APP, "block_warning": 2}}, WRONG + "block_warning is a setting of the whole server: "),
        ({A: {**APP, "max_connections": 2}}, WRONG + "max_connections is a setting of the whole server: "),
        ({A: {**APP, "bind": B}}, WRONG + "bind cannot be set here: the address is the key of the listener"),
        ({A: {**APP, "listeners": {}}}, WRONG + "a listener cannot have listeners"),
        (
            {A: {**APP, "name": "x"}, B: {**APP, "name": "x"}},
            f"setting listeners is wrong in {B!r}: name is 'x', which {A!r} has too: each name must be unique",
        ),
        (
            {A: APP, B: {**APP, "name": A}},
            f"setting listeners is wrong in {B!r}: name is {A!r}, which {A!r} has too: each name must be unique",
        ),
        (
            {A: APP, ":5000": APP},
            f"setting listeners is wrong in ':5000': {A!r} is the same address: each must be there once",
        ),
        (
            {"unix:a": APP, "unix:a,mode=600": APP},
            "setting listeners is wrong in 'unix:a,mode=600': 'unix:a' is the same address: each must be there once",
        ),
    ],
)
def test_each_fault_is_named(value: Any, says: str) -> None:
    assert refusal(value).startswith(says)
    assert "\n" not in refusal(value)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary())
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(SCALARS, inner))
NAMES = st.one_of(st.sampled_from([each.name for each in declared()]), st.sampled_from(["app", "name"]), SCALARS)
OWN = st.dictionaries(NAMES, VALUES)
ENTRIES = st.one_of(VALUES, OWN, OWN.map(lambda own: {**own, **APP}))


@given(st.one_of(VALUES, st.dictionaries(st.sampled_from([A, B, "unix:x", ":0"]) | SCALARS, ENTRIES)))
def test_any_value_is_used_or_refused_in_one_line(value: Any) -> None:
    try:
        settings = checked(value)
        text = printed(settings)
        assert all(settings.for_listener(listener) for listener in settings.all_listeners)
    except ConfigError as error:
        text = str(error)
    assert "\n" not in text


def test_there_is_a_largest_number_of_listeners() -> None:
    many = {f"127.0.0.1:{port}": APP for port in range(1, MAX_LISTENERS + 2)}

    assert refusal(many) == f"setting listeners is a dictionary of {MAX_LISTENERS + 1} listeners, must have at most 250"
    many.popitem()
    assert len(checked(many).listeners) == MAX_LISTENERS


def test_a_password_is_not_shown() -> None:
    entry = {**APP, "certfile": "c", "keyfile_password": "hunter2", "allow": ["::1"], "idle_timeout": 3}
    settings = checked({A: {**entry, "name": "x"}})

    assert printed(settings) == (
        f"{{{A!r}: {{'app': 'shop:devices', 'name': 'x', 'certfile': 'c', 'keyfile_password': ..., "
        "'allow': ['::1/128'], 'idle_timeout': 3}}"
    )
    assert "hunter2" not in repr(settings.listeners)
    assert "hunter2" not in refusal({A: {**entry, "keyfile_password": ["hunter2"]}})
    assert "hunter2" not in refusal([entry])


def test_the_printed_text_is_the_setting() -> None:
    value = {A: {**APP, "name": "x", "idle_timeout": 3, "deny": ["10.0.0.0/8"], "alpn": ["a"], "certfile": "c"}}

    assert eval(printed(checked(value))) == value


def test_the_settings_of_a_listener_are_those_of_a_connection() -> None:
    groups: dict[str, list[str]] = {}
    for each in declared():
        if each.metadata["per_listener"]:
            groups.setdefault(each.metadata["group"], []).append(each.name)
    whole = {each.metadata["group"] for each in declared()}

    assert whole >= set(groups) == {"Timeouts", "Limits", "TLS", "PROXY Protocol"}
    assert groups["Limits"] == ["allow", "deny"]
    for group in ("TLS", "PROXY Protocol"):
        assert groups[group] == [each.name for each in declared() if each.metadata["group"] == group]
    assert {each.name for each in declared() if each.metadata["group"] == "Timeouts"} - {*groups["Timeouts"]} == {
        "block_warning"  # of a worker
    }


# Beside other sources


def configuration(folder: Path, text: str = "", **values: Any) -> Configuration:
    file = folder / "conf.py"
    file.write_text(f"listeners = {{{A!r}: {APP!r}}}\n{text}")
    return Configuration(str(file), **values)


@pytest.mark.parametrize(
    ("text", "values", "what"),
    [
        ("", {"app": "echo"}, "APP (echo)"),
        ("bind = '127.0.0.1:1'", {}, "bind of the config file"),
        ("", {"environment": {"bind": ["127.0.0.1:1"]}}, "--bind of GSERVER_CMD_ARGS"),
        ("", {"command_line": {"bind": ["127.0.0.1:1"]}}, "--bind"),
    ],
)
def test_an_application_or_an_address_beside_it_is_refused(
    tmp_path: Path, text: str, values: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration(tmp_path, text, **values).read()

    assert str(caught.value) == (f"{what} cannot be used beside the setting listeners, which has addresses and apps")


def test_a_running_server_needs_an_application(tmp_path: Path) -> None:
    settings = configuration(tmp_path).read_again()
    assert settings.listeners

    (tmp_path / "conf.py").write_text("workers = 2")
    again = Configuration(str(tmp_path / "conf.py"))

    assert again.read().workers == 2
    with pytest.raises(ConfigError, match=r"^setting listeners is missing: the server was started without APP$"):
        again.read_again()
    assert dataclasses.replace(again, app="echo").read_again().workers == 2


# Sockets of systemd

TWO = (
    Listener(TcpBind("0.0.0.0", 5000), "devices", "a:a", address=A, is_declared=True),
    Listener(TcpBind("127.0.0.1", 5001), "admin", "a:b", address=B, is_declared=True),
)


def test_a_passed_socket_replaces_the_address_of_the_listener_of_its_name() -> None:
    devices, admin = with_passed_sockets(TWO, [FdBind(3, "admin")])

    assert devices == TWO[0]
    assert admin == dataclasses.replace(TWO[1], bind=FdBind(3))


def test_a_name_may_have_several_sockets() -> None:
    found = with_passed_sockets(TWO, [FdBind(3, "devices"), FdBind(4, "devices")])

    assert [(each.name, str(each.bind)) for each in found] == [
        ("devices", "fd://3"),
        ("devices", "fd://4"),
        ("admin", "127.0.0.1:5001"),
    ]


@pytest.mark.parametrize("name", ["other", ""])
def test_a_passed_socket_of_another_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_passed_sockets(TWO, [FdBind(3, "admin"), FdBind(4, name)])

    assert str(caught.value) == (
        f"the socket fd://4 that systemd has passed has the name {name!r} (FileDescriptorName=), must be the name of a "
        "listener: devices, admin"
    )


def test_a_passed_socket_belongs_to_one_listener() -> None:
    third = Listener(FdBind(3), "fd", "a:c", address="fd://3", is_declared=True)

    assert with_passed_sockets([third], [FdBind(3, "fd")]) == (third,)
    with pytest.raises(ConfigError, match=r"^listener 'fd' has the address fd://3, the socket of 'admin'$"):
        with_passed_sockets([*TWO, third], [FdBind(3, "admin")])


def test_passed_sockets_are_matched_when_the_sources_are_read(tmp_path: Path) -> None:
    file = tmp_path / "conf.py"
    file.write_text(f"listeners = {{{A!r}: {{'app': 'echo', 'name': 'devices'}}}}")
    settings = Configuration(str(file), sockets=(FdBind(3, "devices"),)).read()

    assert settings.binds == (FdBind(3),)
    assert printed(settings) == f"{{{A!r}: {{'app': 'echo', 'name': 'devices'}}}}"
