"""Read pages, and leave charts out of them."""

from html.parser import HTMLParser

from cxr_ft.show import page
from cxr_ft.show.charts import all_charts


class Seen(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def read(out):
    return (out / "comparison.html").read_text(encoding="utf-8")


def draw_only(monkeypatch, *names):
    """Leave the other charts out of pages: they cost seconds a page and have tests of their own."""
    charts = {name: all_charts()[name] for name in names}
    monkeypatch.setattr(page, "all_charts", lambda: charts)
