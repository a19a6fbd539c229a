"""From the APP of the command line to what is served."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gserver.errors import ConfigError
from gserver.json_service import JsonService
from gserver.service import Service, StreamService
from gserver.worker.app_loader import parse_application

MODULE = """
from gserver import Service, stream

service = Service(lambda message, conn: message)

def bare(socket, address): ...

def factory(size=1): return service

def needs(size): return service

def raises(): raise RuntimeError("mine")

@stream
def reader(conn): ...

class Holder:
    inner = service

number = 3

def of_lines(line, conn): return line

def of_data(data, address): return data

def of_connections(conn, address): ...

async def later(socket, address): ...

async def make_later(): return service

def yields(socket, address): yield

def one(conn): ...

from gserver import LengthPrefixed
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "app_for_test.py").write_text(MODULE)
    (tmp_path / "app_with_broken_import.py").write_text("import nothing_like_this")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "app_for_test"
    for name in ("app_for_test", "app_with_broken_import"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("text", ["echo", "gserver.handlers:echo", "gserver.handlers:echo()", "echo(prefix='> ')"])
def test_echo_by_short_name_by_path_and_as_a_factory(text: str) -> None:
    assert type(parse_application(text).load()) is Service


def test_json_by_short_name() -> None:
    assert isinstance(parse_application("json").load(), JsonService)


def test_the_arguments_of_a_factory_arrive() -> None:
    service = parse_application("gserver.handlers:echo(prefix='> ')").load()

    assert isinstance(service, Service)
    assert service.on_message(b"x", None) == b"> x"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["service", "factory", "factory(2)", "factory(size=2)", "needs(1)", "Holder.inner"])
def test_services_and_factories_are_told_apart(module: str, name: str) -> None:
    assert isinstance(parse_application(f"{module}:{name}").load(), Service)


def test_a_bare_handler_is_served_as_it_is(module: str) -> None:
    bare = parse_application(f"{module}:bare").load()

    assert bare is sys.modules[module].bare


def test_a_bare_handler_may_call_its_socket_a_connection(module: str) -> None:
    assert parse_application(f"{module}:of_connections").load() is sys.modules[module].of_connections


def test_a_stream_is_served(module: str) -> None:
    assert isinstance(parse_application(f"{module}:reader").load(), StreamService)


@pytest.mark.parametrize("text", ["", "os", "os:", ":x", "os:1", "os:a b", "os:f(x)", "os:f(**{})", "json("])
def test_a_text_that_names_nothing_is_refused_before_any_import(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_application(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing", "module 'app_for_test' has no 'nothing'"),
        ("number", "is 3: expected a Service"),
        ("factory(1, 2)", "cannot be called: too many positional arguments"),
        ("needs()", "cannot be called: missing a required argument: 'size'"),
        ("needs", "expected a Service"),
        ("of_lines", "is of_lines(line, conn), which seems to take messages, by the names of its arguments:"),
        ("of_lines", "expected Service(of_lines, codec=...), or a bare handle(socket, address) ({file}:"),
        ("of_data", "expected Service(of_data, codec=...)"),
        ("later", "is later, an async function: gserver does not await it"),
        ("make_later", "is make_later, an async function"),
        ("make_later()", "is make_later, an async function"),
        ("yields", "is yields, a generator function"),
        ("one", "a function of one connection is marked with @stream"),
        ("Service", "is the class Service itself: expected an object of it"),
        ("LengthPrefixed", "is a codec, LengthPrefixed: expected a Service"),
    ],
)
def test_what_cannot_be_served_is_a_clear_error(module: str, name: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_application(f"{module}:{name}").load()
    assert says.format(file=sys.modules[module].__file__) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_there_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"^no module named 'nowhere', in 'nowhere\.at\.all:x'$"):
        parse_application("nowhere.at.all:x").load()


def test_what_the_module_raises_is_its_own(module: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="nothing_like_this"):
        parse_application("app_with_broken_import:x").load()
    with pytest.raises(RuntimeError, match="mine"):
        parse_application(f"{module}:raises").load()
