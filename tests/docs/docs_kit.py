"""Pages of the documentation taken apart: blocks of code, the comments above them, headings and links.

A block of code stands as it is printed. What it needs to run, and what keeps it from running, is said in comments
directly above it, which readers of a page do not see:

    <!-- given: CODE -->          Python that is run first; where a line of it is `...`, the block stands in its place
    <!-- not run: REASON -->      it cannot run here
    <!-- shown by: FILE -->       it is not run here, and a test in that file does, or sees, the like
    <!-- prints -->               a text block: what the block before it prints, `...` standing for anything

A block with a title is a file of that name, for the commands that come after it on its page.
"""

import re
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import carpool

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PACKAGE = Path(carpool.__file__).parent
SITE = "docs/"
BESIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
MARKS = re.compile(r"<!-- (given|not run|shown by|prints):?\s?(.*?)\s*-->", re.DOTALL)
ABOVE = re.compile(r"(?:<!-- (?:given|not run|shown by|prints)(?:(?!-->).)*-->\s*)+\Z", re.DOTALL)
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?P<more>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
INCLUDED = re.compile(r"--8<--\n(\S+)\n--8<--\s*")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


class Block(NamedTuple):
    """Hold one block of code: where it stands, what it says, and the marks above it."""

    page: str
    line: int
    language: str
    title: str | None
    text: str
    marks: dict[str, str]

    @property
    def place(self) -> str:
        """Name the page and the line, as editors do."""
        return f"{self.page}:{self.line}"

    @property
    def is_run(self) -> bool:
        """Tell whether nothing keeps it from running here."""
        return not {"not run", "shown by"} & self.marks.keys()

    @property
    def included(self) -> Path | None:
        """Give the file that stands in its place on the site, None where it is its own text."""
        named = INCLUDED.fullmatch(self.text)
        if named is None:
            return None
        within = named[1].removeprefix("src/carpool/")  # which may be installed elsewhere
        return ROOT / named[1] if within == named[1] else PACKAGE / within


@cache
def pages() -> tuple[str, ...]:
    """Name all pages, from the root of the repository."""
    site = sorted(str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md"))
    return tuple(page for page in [*BESIDE, *site] if page not in excluded())


@cache
def excluded() -> tuple[str, ...]:
    """Name the files under docs/ that are no pages of the site."""
    _, _, listed = (ROOT / "mkdocs.yml").read_text().partition("exclude_docs: |\n")
    names = re.match(r"(?:  \S+\n)*", listed)
    assert names
    return tuple(SITE + name for name in names[0].split())


def text_of(page: str) -> str:
    """Read a page."""
    return (ROOT / page).read_text()


def blocks_of(page: str) -> Iterator[Block]:
    """Give the blocks of a page, in order."""
    text = text_of(page)
    for fence in FENCE.finditer(text):
        above = ABOVE.search(text, 0, fence.start())
        marks = {mark[1]: mark[2] for mark in MARKS.finditer(above[0])} if above else {}
        line = text.count("\n", 0, fence.start()) + 1
        title = re.search(r'title="([^"]+)"', fence["more"])
        yield Block(page, line, fence["language"], title[1] if title else None, textwrap.dedent(fence["text"]), marks)


def program(block: Block) -> str:
    """Put a block of Python where what is given for it says, or else behind that."""
    given = block.marks.get("given", "")
    place = re.search(r"^( *)\.\.\.$", given, re.MULTILINE)
    if place is None:
        return f"{given}\n{block.text}"
    return given[: place.start()] + textwrap.indent(block.text, place[1]) + given[place.end() :]


def prose_of(page: str) -> str:
    """Give a page without its blocks of code and without comments."""
    return FENCE.sub("", COMMENT.sub("", text_of(page)))


@cache
def anchors_of(page: str) -> set[str]:
    """Name the headings of a page as the site does, those that are generated too."""
    whole = hooks().on_page_markdown(text_of(page))
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", COMMENT.sub("", whole)), re.MULTILINE)
    return {slug(heading) for heading in headings}


def hooks() -> ModuleType:
    """Import what MkDocs imports."""
    return load("hooks")


@cache
def load(name: str) -> ModuleType:
    """Import a program that lies beside the pages."""
    spec = spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def slug(heading: str) -> str:
    """Turn a heading into its anchor, as Python-Markdown's toc does."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def links_of(page: str) -> list[str]:
    """Give the targets of a page's links and pictures within the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose_of(page)))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]
