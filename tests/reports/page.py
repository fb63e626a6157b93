"""Pages as the tests read them."""

from html.parser import HTMLParser

VOID = {"meta", "br", "circle", "line", "rect", "polyline"}


class Page(HTMLParser):
    """The cells of every table row, all tags and links."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.rows, self.links, self.text = [], [], [], [], ""
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "a":
            self.links.append(dict(attributes)["href"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, name):
        return next(row for row in self.rows if row and row[0].startswith(name))
