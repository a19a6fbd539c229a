"""Every public name has a docstring with an example, and every example runs.

An example is the indented block after `Example:`, or after a blank line. It may use all public names of gserver and
gserver.testing without importing them. At 127.0.0.1:3000 it finds an echo of lines; `app` answers each line with pong,
and ping.jsonl is a transcript of that.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

import gserver
from gserver import Lines, Service, bus, offload, testing
from gserver.offload.pools import PoolSizes, start
from gserver.testing import serve
from gserver.transcript import data_rows, encode_row, header_row

MODULES = ["gserver", "gserver.errors", "gserver.bus", "gserver.codecs", "gserver.offload", "gserver.testing"]
#: Names that are no class and no function, and errors that user code never gets.
WITHOUT = {"CODECS", "Fault", "__version__", "codec_named", "ProxyError", "TlsError"}
PATIENCE_S = 30.0
SERVER = '("127.0.0.1", 3000)'
BLOCK = re.compile(r"(?:\n\n|^Example:\n)((?: {4,}[^\n]*\n|\n(?= {4}))+)", re.M)


def public_objects() -> dict[str, Any]:
    """The public classes and functions, and their methods, by their names, such as Client.call."""
    found: dict[str, Any] = {}
    for module in MODULES:
        exported = importlib.import_module(module)
        for name in set(exported.__all__) - WITHOUT:
            thing = getattr(exported, name)
            found[name] = thing
            if inspect.isclass(thing):
                found.update({f"{name}.{each}": getattr(thing, each) for each in methods_of(thing)})
    return found


def methods_of(kind: type) -> list[str]:
    """The methods and properties that a class has itself."""
    return [
        name
        for name, value in vars(kind).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
    ]


def examples_of(thing: Any) -> str:
    docstring = inspect.cleandoc(thing.__doc__ or "") + "\n"
    return "\n".join(textwrap.dedent(block) for block in BLOCK.findall(docstring))


OBJECTS = public_objects()
EXAMPLES = {name: code for name, thing in OBJECTS.items() if (code := examples_of(thing))}


def run(name: str, address: Any = None) -> None:
    names: dict[str, Any] = {"bus": bus, "offload": offload, "app": Service(lambda line, conn: b"pong", Lines)}
    for module in (gserver, gserver.errors, testing):
        names |= {each: getattr(module, each) for each in module.__all__}

    exec(compile(EXAMPLES[name].replace(SERVER, repr(address)), f"<example of {name}>", "exec"), names)


@pytest.mark.parametrize("name", sorted(name for name, code in EXAMPLES.items() if "offload." not in code))
def test_the_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [header_row("1-1", from_first_byte=True), *data_rows(0, "1-1", "in", b"ping\n")]
    rows += data_rows(0, "1-1", "out", b"pong\n")
    Path("ping.jsonl").write_bytes(b"".join(map(encode_row, rows)))
    if SERVER not in EXAMPLES[name]:
        run(name)
        return
    with serve(Service(lambda line, conn: line, Lines)) as server:
        run(name, server.address)


@pytest.mark.parametrize("name", sorted(name for name, code in EXAMPLES.items() if "offload." in code))
def test_the_example_of_offload_runs(name: str) -> None:
    pools = start(PoolSizes(processes=1 if "offload_processes = 1" in EXAMPLES[name] else 0))
    pools.start_processes([], True, PATIENCE_S)
    try:
        run(name)
    finally:
        pools.close(PATIENCE_S)
        start(PoolSizes())


@pytest.mark.parametrize("name", sorted(name for name in OBJECTS if "." not in name))
def test_each_public_class_and_function_has_an_example(name: str) -> None:
    assert name in EXAMPLES
