"""Write docs/commands/: a page a command, from its own flags, and configuration.md, from the options' own docstrings.

python tools/make_docs.py              writes the pages
python tools/make_docs.py --check      says which of them differ from the code, exit code 1
"""

import argparse
import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cxr_ft.cli
from cxr_ft import plugins
from cxr_ft.cli import _flags
from cxr_ft.config import DataConfig, TrainConfig
from cxr_ft.files import write_text

OUT = Path(__file__).parents[1] / "docs" / "commands"
HEAD = "<!-- Written by tools/make_docs.py from the code: change it there. -->\n\n"


def pages() -> dict[str, str]:
    """The pages' texts by file name."""
    names = plugins.choices("cxr_ft.cli")
    out = {f"cxr-{name}.md": HEAD + _command(_parser(name)) for name in names}
    index = "".join(f"- [cxr-{name}](cxr-{name}.md): {_parser(name).description}\n" for name in names)
    rest = "- [configuration](configuration.md): every key of a YAML file and of `--set`\n"
    return {"README.md": f"{HEAD}# Commands\n\n{index}{rest}", "configuration.md": HEAD + _configuration(), **out}


def _parser(name: str) -> argparse.ArgumentParser:
    module = importlib.import_module(f"{cxr_ft.cli.__name__}.{name}")
    # cxr-train's flags depend on the method, so that it has no parser without arguments.
    parser: argparse.ArgumentParser = _flags.train_parser([])[0] if name == "train" else module.parser()
    return parser


def _command(parser: argparse.ArgumentParser) -> str:
    usage = re.sub(r"\s+", " ", parser.format_usage().removeprefix("usage: ")).strip()
    text = f"# {parser.prog}\n\n{parser.description}\n\n    {usage}\n"
    for group in parser._action_groups:
        shown = [action for action in group._group_actions if action.dest != "help"]
        if shown:
            rows = "".join(f"| {_flag(action)} | {_help(action)} |\n" for action in shown)
            text += f"\n## {_title(group.title)}\n\n| flag | means |\n|---|---|\n{rows}"
    return text


def _title(title: str | None) -> str:
    return {"positional arguments": "Arguments", "options": "Flags"}.get(str(title), str(title).capitalize())


def _flag(action: argparse.Action) -> str:
    what = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    name = " ".join(part for part in (", ".join(action.option_strings), str(what)) if part)
    return f"`{_cell(name)}`"


def _help(action: argparse.Action) -> str:
    text = action.help or ""
    default = action.default
    if not (default is None or default is False or default in ([], argparse.SUPPRESS)) and "(default" not in text:
        text += f" (default: {default})"
    return _cell(text)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _configuration() -> str:
    text = (
        "# Configuration\n\nA YAML file for `--config`, or `--set KEY=VALUE`; whatever is missing takes its default. "
        "Unknown keys are refused.\n"
        "`model` is a shipped name, a folder or a hub name; `head.name` and `tuning.name` choose the plug-ins below.\n"
    )
    text += _options("data", DataConfig) + _options("train", TrainConfig)
    for section, package in (("head", plugins.HEADS), ("tuning", plugins.TUNING)):
        for name in plugins.choices(package):
            module = plugins.load(package, name)
            text += _options(section, module.Config, f"`{section}.name: {name}`: {_first_line(module)}")
    return text


def _options(section: str, owner: type, title: str = "") -> str:
    descriptions = _documented(owner)
    rows = "".join(
        f"| `{section}.{field.name}` | `{_cell(_default(field))}` | {_cell(descriptions[field.name])} |\n"
        for field in dataclasses.fields(owner)
    )
    table = f"\n| key | default | means |\n|---|---|---|\n{rows}" if rows else "\nIt has no options.\n"
    return f"\n## {title or f'`{section}`'}\n{table}"


def _default(field: "dataclasses.Field[object]") -> str:
    value = field.default
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return f"[{', '.join(value)}]"
    return '""' if value == "" else str(value)


def _documented(owner: type) -> dict[str, str]:
    """Return what describes each option: the help of its flag, or its entry under `Args:` in the docstring."""
    out: dict[str, str] = {}
    for one in reversed(owner.__mro__):
        out.update(_entries(inspect.getdoc(one) or "" if dataclasses.is_dataclass(one) else ""))
    for field in dataclasses.fields(owner):
        out[field.name] = out.get(field.name) or field.metadata.get("help", "")
        if not out[field.name]:
            raise SystemExit(f"{owner.__module__}.{owner.__name__}.{field.name}: nobody says what it means")
    return out


def _entries(doc: str) -> Iterator[tuple[str, str]]:
    _, _, part = doc.partition("Args:\n")
    for names, text in re.findall(r"^    ([\w, ]+): (.*(?:\n {5,}.*)*)", part, flags=re.MULTILINE):
        for name in names.split(", "):
            yield name, text


def _first_line(module: ModuleType) -> str:
    first = (inspect.getdoc(module) or "").split("\n\n")[0]
    return " ".join(first.split()).rstrip(".") + "."


def main() -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check, texts = parser.parse_args().check, pages()
    there = {file.name: file.read_text(encoding="utf-8") for file in OUT.glob("*.md")}
    differ = sorted(name for name in {*texts, *there} if texts.get(name) != there.get(name))
    for name in differ:
        print(f"docs/commands/{name} differs from the code")
    if check:
        return int(bool(differ))
    for name in there.keys() - texts.keys():
        (OUT / name).unlink()
    for name, text in texts.items():
        write_text(OUT / name, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
