"""Markdown pages as a reader tries them out: the commands to type, the snippets to run, the files to write."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Page:
    path: Path

    @property
    def text(self):
        return self.path.read_text()

    def blocks(self, language):
        return re.findall(rf"^```{language}\n(.*?)^```", self.text, flags=re.MULTILINE | re.DOTALL)

    @property
    def commands(self):
        lines = "".join(self.blocks("bash")).replace("\\\n", " ").splitlines()
        return [line for line in lines if not line.startswith("#")]

    @property
    def files(self):
        """A block of Python or YAML whose first line is a file name is that file."""
        found = [*self.blocks("python"), *self.blocks("yaml")]
        return {match[1]: block for block in found if (match := re.match(r"# ([\w.]+)\n", block))}

    @property
    def snippets(self):
        return [block for block in self.blocks("python") if block not in self.files.values()]

    @property
    def sessions(self):
        """What is typed into an interpreter, with what it answers."""
        return "\n".join(self.blocks("pycon"))

    def rows(self, header):
        """The cells of the tables with this header."""
        tables = re.findall(rf"^\| {re.escape(header)} \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", self.text, re.MULTILINE)
        assert tables, f"{self.path} has no table: {header}"
        return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in "".join(tables).splitlines()]


README = Page(ROOT / "README.md")
DOCS = [Page(path) for path in sorted((ROOT / "docs").glob("*.md"))]


def page_named(stem):
    return next(page for page in DOCS if page.path.stem == stem)
