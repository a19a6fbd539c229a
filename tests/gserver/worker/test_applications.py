"""The applications of the listeners: each text is loaded once, and a failure names the application."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from gserver.codecs import Lines
from gserver.config.settings import Settings
from gserver.errors import ConfigError
from gserver.service import Service
from gserver.worker.applications import Applications, CannotImport
from gserver.worker.readiness_check import ReadyFailed

A, B, C = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    """A module with a factory; the services that it has made."""
    made: list[Service] = []

    def make() -> Service:
        made.append(Service(lambda message, conn: message, Lines))
        return made[-1]

    def fail() -> Service:
        raise KeyError("it has failed")

    module: Any = ModuleType("a_shop")
    module.make, module.fail = make, fail
    monkeypatch.setitem(sys.modules, "a_shop", module)
    return made


def applications(*texts: str) -> Applications:
    listeners = {address: {"app": text} for address, text in zip((A, B, C), texts, strict=False)}
    return Applications(Settings.checked({"listeners": listeners}), None)


def test_a_text_is_loaded_once(shop: list[Service]) -> None:
    several = applications("a_shop:make", "echo", "a_shop:make")
    served = several.load()

    assert list(served) == several.texts == ["a_shop:make", "echo"]
    assert [served["a_shop:make"]] == shop
    assert [listener.name for listener in several.listeners_with("a_shop:make")] == [A, C]
    assert (several.title, several.modules) == ("a_shop:make, echo", ["a_shop", "gserver.handlers"])


def test_without_the_setting_all_addresses_have_the_app_of_the_command_line(shop: list[Service]) -> None:
    settings = Settings.checked({"bind": [A, B]})
    one = Applications(settings, "a_shop:make")

    assert [one.text_of(listener) for listener in settings.all_listeners] == ["a_shop:make"] * 2
    assert one.load() == {"a_shop:make": shop[0]}


def test_what_an_import_raises_is_the_cause_of_a_failure_with_the_text(shop: list[Service]) -> None:
    with pytest.raises(CannotImport) as caught:
        applications("a_shop:make", "a_shop:fail").load()

    assert caught.value.text == "a_shop:fail"
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_text_that_names_nothing_is_a_config_error(shop: list[Service]) -> None:
    with pytest.raises(ConfigError, match=r"^module 'a_shop' has no 'nothing', in 'a_shop:nothing'$"):
        applications("echo", "a_shop:nothing").load()


@pytest.mark.parametrize(
    ("texts", "says"),
    [(("a_shop:make",), "it is not ready"), (("echo", "a_shop:make"), "'a_shop:make': it is not ready")],
)
def test_an_error_names_the_application_only_if_there_are_several(
    shop: list[Service], texts: tuple[str, ...], says: str
) -> None:
    several = applications(*texts)
    served = several.load()
    cause = OSError("no database")

    def use(each: Any, listeners: object) -> None:
        if each in shop:
            raise ReadyFailed("it is not ready") from cause

    with pytest.raises(ReadyFailed) as caught:
        several.each(served, use)
    assert str(caught.value) == says
    assert caught.value.__cause__ is cause


def test_each_application_comes_with_its_listeners() -> None:
    several, found = applications("echo", "json", "echo"), []
    several.each(several.load(), lambda each, listeners: found.append([listener.name for listener in listeners]))

    assert found == [[A, C], [B]]
