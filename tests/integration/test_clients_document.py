"""Run every program and every command of docs/clients.md, and compare the output."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.helpers.certificates import make_certificates
from tests.helpers.documents import Reader, blocks, commands

CLIENTS = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()


def test_every_command_works_with_the_programs_of_the_document(tmp_path: Path) -> None:
    files = make_certificates(tmp_path / "made")
    (tmp_path / "ca.pem").write_text(Path(files.ca).read_text())
    (tmp_path / "server.pem").write_text(Path(files.combined).read_text())
    with contextlib.ExitStack() as servers:
        reader = Reader(tmp_path, servers)
        for command, shown in commands(CLIENTS):
            # The servers come first, so their free ports are known when a program is run.
            write_programs(tmp_path, reader.ports)
            reader.type(command, shown)


def write_programs(folder: Path, ports: dict[str, int]) -> None:
    for code in blocks(CLIENTS, "python"):
        name, _, _ = code.partition("\n")
        if name.startswith("# "):
            for shown, used in ports.items():
                code = code.replace(f'("127.0.0.1", {shown}', f'("127.0.0.1", {used}')
            (folder / name.removeprefix("# ")).write_text(code)


def test_the_example_of_pushes_tells_them_from_replies() -> None:
    (code,) = (code for code in blocks(CLIENTS, "python") if not code.startswith("# "))
    names: dict[str, object] = {}
    exec(code, names)
    on_push = names["on_push"]
    assert callable(on_push)

    assert [on_push({"type": "EVENT"}), on_push({"status": "OK"})] == [True, False]
