"""Who may import whom (docs/architecture.md), and what loads when."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cxr_ft

PACKAGE = Path(cxr_ft.__file__).parent
GROUND = {
    "errors",
    "safe_yaml",
    "json_values",
    "csv_cells",
    "child_processes",
    "files",
    "html_templates",
    "plugins",
    "config",
    "progress",
}
#: What each part may import of the package, besides itself.
MAY = {
    "errors": set(),
    "json_values": set(),
    "child_processes": set(),
    "csv_cells": set(),
    "html_templates": set(),
    "safe_yaml": {"errors"},
    "files": {"errors", "json_values"},
    "plugins": {"errors", "json_values"},
    "progress": set(),
    "config": {"errors", "json_values", "plugins", "safe_yaml"},
    "data": GROUND,
    "model": GROUND,
    "score": {"errors", "json_values"},
    "run": GROUND | {"data", "model", "score"},
    "show": GROUND | {"score", "run.record"},
    "cli": GROUND | {"data", "model", "score", "run", "show"},
    "api": GROUND | {"data", "model", "score", "run", "show"},
    # Only the names; they are loaded when they are first used.
    "__init__": {"api"},
}
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "transformers", "peft", "pandas", "numpy", "matplotlib", "cv2", "sklearn", "scipy", "rich")
COMMANDS = ("ablate", "cache", "compare", "evaluate", "phantom", "predict", "split", "train")


def imports(file):
    """Modules of the package that a file imports, at top level or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}: relative import"
        found.update(name.removeprefix("cxr_ft.") for name in names if name.startswith("cxr_ft."))
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_go_one_way(file):
    part = file.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imports(file):
        top = name.split(".")[0]
        allowed = top == part or top in MAY[part] or any(name == m or name.startswith(f"{m}.") for m in MAY[part])
        # `from cxr_ft.run.record import results` names both `run.record` and `run.record.results`.
        assert allowed or (part == "show" and name == "run"), f"{file.name} imports cxr_ft.{name}"


def libraries(file):
    """Top-level names of what a file imports."""
    tree = ast.parse(file.read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def test_torch_in_data_stands_in_split_dataset_alone():
    for file in (PACKAGE / "data").rglob("*.py"):
        if file.name != "split_dataset.py":
            assert not libraries(file) & {"torch", "transformers"}, file


@pytest.mark.parametrize(
    "part", ["score", "show", *(f"run/record/{name}.py" for name in ("results", "prediction_files", "imported_runs"))]
)
def test_score_show_and_results_know_no_torch(part):
    path = PACKAGE / part
    for file in path.rglob("*.py") if path.is_dir() else [path]:
        assert not libraries(file) & {"torch", "transformers", "peft", "accelerate"}, file


@pytest.mark.parametrize("kind", ["bases", "heads", "tuning"])
def test_plugins_do_not_import_each_other(kind):
    for file in (PACKAGE / "model" / kind).glob("*.py"):
        others = {name for name in imports(file) if name.split(".")[:1] == ["model"]}
        for other in ("model.bases.", "model.heads.", "model.tuning."):
            assert not any(name.startswith(other) and "._" not in name for name in others), file


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_instant(command):
    """--help loads nothing heavy; so it takes the time of Python itself."""
    code = (
        f"import sys; from cxr_ft.cli.{command} import main\n"
        "try: main(['--help'])\nexcept SystemExit as e: assert not e.code\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]; assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"cxr-{command}" in done.stdout


def test_every_command_is_installed_and_in_the_readme():
    setup = (PACKAGE.parent / "setup.cfg").read_text()
    readme = (PACKAGE.parent / "README.md").read_text()
    for command in COMMANDS:
        assert f"cxr-{command} = cxr_ft.cli.{command}:main" in setup
        assert f"cxr-{command}" in readme
    files = {file.stem for file in (PACKAGE / "cli").glob("*.py") if not file.stem.startswith("_")}
    assert files == set(COMMANDS)


def test_what_split_lists_is_what_its_owners_know():
    from cxr_ft.cli import split
    from cxr_ft.data import card
    from cxr_ft.data.reports import text_columns
    from cxr_ft.data.splits import request

    assert split.VIEWS == request.VIEWS
    assert split.SENSITIVITIES == card.SENSITIVITIES
    assert tuple(text_columns.TEXTS) == split.TEXTS


def test_reading_splits_loads_no_compiler():
    """Training reads splits: neither the split compiler, nor the synthetic archive, nor scipy is loaded for that."""
    code = (
        "import sys, cxr_ft.data.manifest, cxr_ft.data.dataset.split_dataset, cxr_ft.data.dataset.open_split\n"
        "others = ('cxr_ft.data.splits', 'cxr_ft.data.phantom', 'cxr_ft.data.layouts', 'scipy')\n"
        "loaded = [m for m in sys.modules if m.startswith(tuple(f'{name}.' for name in others)) or m in others]\n"
        "assert not loaded, sorted(loaded)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def without_type_checking(node):
    """All nodes below `node`, except those in the body of `if TYPE_CHECKING:`, which never runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from without_type_checking(other)
        else:
            yield child
            yield from without_type_checking(child)


def import_graph(package):
    """The modules of a package, and for each the others that it imports, in functions too."""
    files = {}
    for file in package.rglob("*.py"):
        parts = file.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    graph = {}
    for module, file in files.items():
        names = set()
        for node in without_type_checking(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                # `from package import module` needs the module, not what else the package's __init__ holds.
                names.update(name if name in files else node.module for name in whole)
            elif isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
        graph[module] = {name for name in names if name in files and name != module}
    return graph


def circles(graph):
    """The strongly connected components of more than one module, each sorted."""

    def reachable(start):
        seen, waiting = set(), [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    reached = {module: reachable(module) for module in graph}
    groups = {frozenset(other for other in reached[module] if module in reached[other]) for module in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def test_no_import_circle():
    assert circles(import_graph(PACKAGE)) == []


def test_an_import_circle_is_seen_in_functions_but_not_in_type_hints(tmp_path):
    package = tmp_path / "p"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("from p import b\n")
    (package / "b.py").write_text("def f():\n    import p.c\n")
    (package / "c.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import x\n")
    assert circles(import_graph(package)) == []
    (package / "c.py").write_text("def g():\n    from p.a import x\n")
    assert circles(import_graph(package)) == [["p.a", "p.b", "p.c"]]
