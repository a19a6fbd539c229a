"""The architecture, checked by parsing imports: order of the packages, pure modules, maximum sizes."""

from __future__ import annotations

import ast
import functools
import gc
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gserver", "loadtests", "benchmarks", "tests")
#: From the top down: a module imports only modules of its own place and of places below. docs/design.md has the map.
LAYERS = {
    "gserver": [
        ["gserver.__main__", "gserver.docgen"],
        ["gserver.cli"],
        ["gserver.testing"],
        ["gserver.worker", "gserver.metrics"],
        ["gserver.arbiter"],
        ["gserver.control"],
        ["gserver.server"],
        ["gserver.handlers"],
        ["gserver.engine"],
        ["gserver.tls"],
        ["gserver.bus"],
        ["gserver.json_service", "gserver.client"],
        ["gserver.service"],
        ["gserver.offload"],
        ["gserver.process"],
        ["gserver.connection"],
        ["gserver.config"],
        ["gserver.limits"],
        ["gserver.framing"],
        ["gserver.codecs"],
        ["gserver.command_parser", "gserver.counters", "gserver.user_errors", "gserver.fault_isolation"],
        ["gserver.transcript"],
        ["gserver.log_records"],
        ["gserver.errors"],
    ],
    "loadtests": [
        ["loadtests.__main__", "loadtests.locustfile"],
        ["loadtests.cli", "loadtests.stock"],
        ["loadtests.commands"],
        ["loadtests.orchestration"],
        ["loadtests.users"],
        ["loadtests.locust_integration"],
        ["loadtests.report"],
        ["loadtests.comparison"],
        ["loadtests.sampling", "loadtests.servers"],
        ["loadtests.results"],
        ["loadtests.inference", "loadtests.workloads"],
        ["loadtests.recording"],
        ["loadtests.host"],
        ["loadtests.client"],
        ["loadtests.formatting", "loadtests.url"],
        ["loadtests.optional_packages", "loadtests.standard_streams"],
        ["loadtests.text_encoding", "loadtests.errors", "loadtests.exit_status", "loadtests.units"],
    ],
}
#: Modules without I/O: they import neither gevent, nor Locust, nor sockets.
PURE = [
    "gserver/bus/wire.py",
    "gserver/client/backoff.py",
    "gserver/codecs/*.py",
    "gserver/config/settings.py",
    "gserver/config/hooks.py",
    "gserver/config/live_settings.py",
    "gserver/control/arguments.py",
    "gserver/control/protocol.py",
    "gserver/control/selection.py",
    "gserver/control/text_output.py",
    "gserver/limits/*.py",
    "gserver/errors.py",
    "gserver/transcript.py",
    "gserver/counters.py",
    "gserver/arbiter/restart_causes.py",
    "gserver/arbiter/supervision.py",
    "gserver/arbiter/worker_timeouts.py",
    "gserver/arbiter/health.py",
    "gserver/arbiter/worker_questions.py",
    "gserver/worker/accept_balance.py",
    "gserver/worker/recycling.py",
    "loadtests/comparison/*.py",
    "loadtests/inference/*.py",
    "loadtests/recording/*.py",
    "loadtests/report/**/*.py",
    "loadtests/results/*.py",
    "loadtests/workloads/*.py",
    *(
        f"loadtests/{name}.py"
        for name in ("errors", "exit_status", "formatting", "optional_packages", "text_encoding", "url")
    ),
    "loadtests/host/capacity_check.py",
    "loadtests/client/source_addresses.py",
    "loadtests/host/cpu_time.py",
    "loadtests/orchestration/progress.py",
    "loadtests/units.py",
    "loadtests/users/wait_times.py",
    *(f"benchmarks/{name}.py" for name in ("jobs", "figures", "messages", "ratios", "rounds", "tables", "document")),
]
IMPURE = {"gevent", "locust", "socket", "_socket"}
VAGUE = {"util", "utils", "common", "base", "helper", "misc"}
MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 60


def python_files(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def all_files() -> list[Path]:
    return python_files(*(f"{package}/**/*.py" for package in PACKAGES))


@functools.cache
def parse(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text("utf-8"), str(path))
    gc.freeze()  # otherwise the check for leaks looks at all nodes after each test
    return tree


@dataclass(frozen=True)
class Function:
    """What the laws ask of one; methods, and those inside of others, are functions too."""

    name: str
    first_line: int
    lines: int
    is_annotated: bool


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    """Each file is parsed once for this and once for functions_of(); the trees, a million objects, are not kept."""
    return frozenset(imports(parse(path)))


@functools.cache
def functions_of(path: Path) -> tuple[Function, ...]:
    return tuple(
        Function(node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1, is_annotated(node))
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def is_annotated(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    bare = [each.arg for each in arguments if each.annotation is None and each.arg not in ("self", "cls")]
    return node.returns is not None and not bare


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(node: ast.AST, in_functions: bool = True) -> Iterator[str]:
    """The dotted names that a tree imports when it runs: modules, and what is taken from them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: a relative import"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif is_for_types_only(child):
            assert isinstance(child, ast.If)
            yield from imports(ast.Module(child.orelse, []), in_functions)
        elif in_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(child, in_functions)


def layer_of(name: str) -> int | None:
    """The place of a module, or of something in it, counted from the top; None if it has none."""
    for layer, modules in enumerate(LAYERS.get(name.partition(".")[0], [])):
        if any(name == module or name.startswith(module + ".") for module in modules):
            return layer
    return None


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=ids(paths))


LAYERED = [
    path
    for path in python_files("gserver/**/*.py", "loadtests/**/*.py")
    if name_of(path) not in ("gserver", "loadtests")
]


@each(LAYERED)
def test_no_module_imports_from_a_layer_above(path: Path) -> None:
    package = name_of(path).partition(".")[0]
    own = layer_of(name_of(path))
    assert own is not None, "a new module needs a place in LAYERS"
    layers = {name: layer_of(name) for name in imports_of(path) if name.startswith(package + ".")}

    assert {name for name, layer in layers.items() if layer is not None and layer < own} == set()


def test_every_layer_has_its_modules() -> None:
    names = {name_of(path) for path in LAYERED}

    assert {module for layers in LAYERS.values() for layer in layers for module in layer} <= names


def module_graph() -> dict[str, set[str]]:
    names = {name_of(path) for path in LAYERED}
    graph = {}
    for path in LAYERED:
        imported = imports_of(path)
        graph[name_of(path)] = {
            each for name in imported if (each := module_of(name, names)) not in ("", name_of(path))
        }
    return graph


def module_of(name: str, names: set[str]) -> str:
    """The module that an imported name is, or is in."""
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = module_graph()
    order = graphlib.TopologicalSorter(graph)

    order.prepare()  # CycleError names the circle


def test_packages_import_each_other_one_way_only() -> None:
    between: dict[str, set[str]] = {}
    for name, imported in module_graph().items():
        own = ".".join(name.split(".")[:2])
        between.setdefault(own, set()).update(".".join(each.split(".")[:2]) for each in imported)
    order = graphlib.TopologicalSorter({name: imported - {name} for name, imported in between.items()})

    order.prepare()


def test_every_pattern_of_pure_modules_finds_some() -> None:
    assert [pattern for pattern in PURE if not python_files(pattern)] == []


@each(python_files(*PURE))
def test_what_is_pure_does_no_io(path: Path) -> None:
    assert {name.partition(".")[0] for name in imports_of(path)} & IMPURE == set()


@each(python_files("gserver/arbiter/**/*.py"))
def test_the_arbiter_knows_nothing_of_gevent(path: Path) -> None:
    assert {name for name in imports_of(path) if name.partition(".")[0] == "gevent"} == set()


def test_a_worker_imports_gevent_only_after_the_fork() -> None:
    tree = parse(ROOT / "gserver/worker/worker.py")

    assert not any(name.partition(".")[0] == "gevent" for name in imports(tree, in_functions=False))
    assert any(name.partition(".")[0] == "gevent" for name in imports(tree))


@each(python_files("gserver/**/*.py"))
def test_the_server_knows_nothing_of_what_measures_it(path: Path) -> None:
    measuring = ("loadtests", "benchmarks", "locust")

    assert {name for name in imports_of(path) if name.partition(".")[0] in measuring} == set()


@each(python_files("loadtests/**/*.py"))
def test_the_load_tests_do_without_what_is_not_installed(path: Path) -> None:
    assert {name for name in imports_of(path) if name.partition(".")[0] in ("benchmarks", "tests")} == set()


def test_the_distribution_has_the_server_and_the_load_tests_alone() -> None:
    (patterns,) = (
        ast.literal_eval(word.value)
        for call in ast.walk(parse(ROOT / "setup.py"))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "find_packages"
        for word in call.keywords
        if word.arg == "include"
    )

    assert patterns == ["gserver", "gserver.*", "loadtests", "loadtests.*"]


@pytest.mark.parametrize(
    "module", ["gserver", "gserver.cli", "gserver.codecs", "gserver.config.settings", "gserver.arbiter.arbiter"]
)
def test_importing_it_does_not_import_gevent(module: str) -> None:
    program = f"import sys, {module}; print(sorted(name for name in sys.modules if name.startswith('gevent')))"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )

    assert (finished.stdout, finished.stderr) == ("[]\n", "")


def test_the_command_opens_standard_streams_before_it_imports_what_keeps_files_open() -> None:
    """libffi may keep its own library open from the import of ctypes on, under a number from 0 to 2 if one is free."""
    program = "import gserver.__main__, sys; print([name for name in ('ctypes', 'gserver.cli') if name in sys.modules])"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )

    assert (finished.stdout, finished.stderr) == ("[]\n", "")


@pytest.mark.parametrize("module", ["gserver.server.tcp_server", "gserver.client", "gserver.handlers"])
def test_importing_it_patches_nothing(module: str) -> None:
    program = f"import socket, time, {module}; print(socket.socket.__module__, time.sleep.__module__)"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )

    assert (finished.stdout, finished.stderr) == ("socket time\n", "")


def test_every_public_name_can_be_imported_and_is_hidden_by_no_module() -> None:
    program = "import gserver; print(all(getattr(gserver, name) is not None for name in gserver.__all__))"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert (finished.stdout, finished.stderr) == ("True\n", "")
    tree = parse(ROOT / "gserver/__init__.py")
    (public,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )

    assert {path.stem for path in python_files("gserver/*.py", "gserver/*/__init__.py")} & set(public) == set()


def test_no_module_has_a_vague_name() -> None:
    assert {path for path in all_files() if path.stem.strip("_") in VAGUE} == set()


@each(all_files())
def test_files_and_functions_stay_small(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    long = {function.name: function.lines for function in functions_of(path) if function.lines > MAX_FUNCTION_LINES}

    assert lines < MAX_FILE_LINES
    assert long == {}


@each(all_files())
def test_modules_say_what_they_are_for(path: Path) -> None:
    """A docstring above the imports; test files may leave it to the names of their tests."""
    if not path.name.startswith("test_") and path.stat().st_size:
        assert ast.get_docstring(parse(path))


@each(python_files("gserver/**/*.py"))
def test_every_function_is_annotated(path: Path) -> None:
    assert [f"{each.name}:{each.first_line}" for each in functions_of(path) if not each.is_annotated] == []


class TestTheParser:
    """The laws above are worth what the parser sees."""

    def parse_text(self, text: str, in_functions: bool = True) -> set[str]:
        return set(imports(ast.parse(text), in_functions))

    def test_all_forms_of_import_are_seen(self) -> None:
        text = "import a.b, c\nfrom d.e import f as g\ntry:\n    import h\nexcept ImportError:\n    pass\n"

        assert self.parse_text(text) == {"a.b", "c", "d.e.f", "h"}

    def test_imports_in_functions_are_seen_if_asked(self) -> None:
        text = "def f():\n    import a\nclass B:\n    import c\n    def m(self):\n        from d import e\n"

        assert self.parse_text(text) == {"a", "c", "d.e"}
        assert self.parse_text(text, in_functions=False) == {"c"}

    def test_imports_for_types_are_not_imports(self) -> None:
        assert self.parse_text("if TYPE_CHECKING:\n    import a\nelse:\n    import b\n") == {"b"}

    def test_layers_are_found_by_whole_names(self) -> None:
        assert layer_of("gserver.errors.CloseReason") == len(LAYERS["gserver"]) - 1
        assert layer_of("gserver.codecs.lines") == layer_of("gserver.codecs")
        assert layer_of("gserver.serverless") is None
        assert layer_of("gserver") is None


@each(
    [
        path
        for path in python_files("loadtests/**/*.py")
        if not (path.parent.name == "commands" or name_of(path) == "loadtests.cli")
    ]
)
def test_only_the_commands_parse_arguments(path: Path) -> None:
    """Everything below gets a dataclass. Locust's own parser class is no import of argparse."""
    assert "argparse" not in {name.partition(".")[0] for name in imports_of(path)}


#: Fields of a connection that handlers may assign.
OF_USERS = {"session", "codec"}


def fields_of_connections() -> set[str]:
    """The names in __slots__ of the classes of connections in gserver/connection/."""
    names = set()
    for path in python_files("gserver/connection/*.py"):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef) and node.name in ("_Slots", "Connection", "StreamConnection"):
                for each in node.body:
                    if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "__slots__":
                        names.update(ast.literal_eval(each.value))
    return names - OF_USERS


def assigned_fields(tree: ast.AST, fields: set[str]) -> Iterator[str]:
    """The fields that a tree assigns or deletes of objects named like a connection, or of self in subclasses of one."""
    owners = {"conn", "connection"}
    bases = [ast.unparse(base) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
    if any(base.endswith("Connection") for base in bases):
        owners.add("self")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            owner = ast.unparse(node.value).rpartition(".")[2].strip("_")
            if owner in owners and node.attr in fields:
                yield f"{node.lineno}: {ast.unparse(node)}"


# gserver/tls/contexts.py has a `connection` that is an ssl.SSLObject, which has a `context` too.
@each([path for path in python_files("gserver/**/*.py") if path.parent.name != "connection"])
def test_only_the_package_of_connections_assigns_their_fields(path: Path) -> None:
    """All others call methods of the connection. The exception is _native.c, which writes the struct for speed."""
    fields = fields_of_connections() - ({"context"} if path.name == "contexts.py" else set())

    assert list(assigned_fields(parse(path), fields)) == []


def test_assignments_to_fields_of_a_connection_are_found() -> None:
    text = (
        "conn.state = 1\nself._conn.sent_bytes += 2\nconn.watcher, x = y\nconn.session = conn.runner\ndel conn.outbox\n"
    )
    fields = fields_of_connections()

    assert {"state", "runner", "watcher", "_throttle"} <= fields
    of_subclass = "class A(Connection):\n    def b(self): self.fd = 1"
    assert list(assigned_fields(ast.parse("self.state = 1"), fields)) == []
    assert list(assigned_fields(ast.parse(of_subclass), fields)) == ["2: self.fd"]
    assert sorted(assigned_fields(ast.parse(text), fields)) == [
        "1: conn.state",
        "2: self._conn.sent_bytes",
        "3: conn.watcher",
        "5: conn.outbox",
    ]
