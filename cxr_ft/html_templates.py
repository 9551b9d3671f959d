"""Open HTML templates by one rule: text from data is escaped, and a field that a template misspells is an error."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def open_folder(folder: Path) -> "Environment":
    """Return the environment of the templates in a folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        # Otherwise a misspelt field is an empty place on the page.
        undefined=StrictUndefined,
    )
