"""The pages that are written from the code say what the code says."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_commands_pages_are_up_to_date():
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "tools" / "make_docs.py")
    make_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_docs)
    there = {file.name: file.read_text() for file in (ROOT / "docs" / "commands").glob("*.md")}
    assert there == make_docs.pages(), "docs/commands is not what the code says: run make docs, and commit it"
