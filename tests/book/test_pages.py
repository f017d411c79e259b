"""The built pages as files, no browser needed: small, described in words, and nothing loaded from anywhere else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(set(re.findall(r"book/[\w/]+", (ROOT / "_toc.yml").read_text(encoding="utf-8"))))
LARGEST = 1_500_000  # bytes of HTML, pictures included
LOADED_LINKS = {"stylesheet", "icon", "shortcut icon", "preload", "modulepreload", "prefetch", "manifest"}


class Page(HTMLParser):
    """What a page loads when it is opened, and the pictures of its text.

    Attributes:
        loads: addresses of scripts, styles, pictures, frames and media.
        pictures: attributes of every ``<img>`` within ``<article>``.
        styles: text of ``<style>`` elements and ``style`` attributes.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.styles = ""
        self._articles = 0
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._articles += tag == "article"
        self._in_style = tag == "style"
        self.styles += values.get("style") or ""
        if tag == "link" and (values.get("rel") or "").lower() in LOADED_LINKS:
            self.loads.append(values.get("href") or "")
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "track") and values.get("src"):
            self.loads.append(values["src"])
        self.loads += [part.split()[0] for part in (values.get("srcset") or "").split(",") if part.strip()]
        if tag == "img" and self._articles:
            self.pictures.append(values)

    def handle_endtag(self, tag: str) -> None:
        self._articles -= tag == "article"
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.styles += data


def is_foreign(address: str) -> bool:
    """Whether an address leaves the folder of the book."""
    parts = urlsplit(address)
    return parts.scheme not in ("", "data") or bool(parts.netloc)


def foreign_in_styles(css: str) -> list[str]:
    """Addresses elsewhere that a style sheet asks for: fonts, pictures, other sheets."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    asked = re.findall(r"url\(\s*['\"]?([^'\")]+)", css) + re.findall(r"@import\s+['\"]([^'\"]+)", css)
    return [address for address in asked if is_foreign(address)]


@pytest.fixture(scope="module")
def pages(built_book: Path) -> dict[str, Page]:
    return {name: Page((built_book / f"{name}.html").read_text(encoding="utf-8")) for name in NAMES}


def test_the_reader_of_pages_sees_what_a_page_loads():
    page = Page(
        '<link rel="stylesheet" href="https://cdn.example/a.css"><link rel="canonical" href="https://example/">'
        '<script src="//cdn.example/b.js"></script><img src="logo.png"><article><img src="data:image/png;base64,AA" '
        'alt="a dog" style="background:url(http://example/c.png)"></article><a href="https://example/">away</a>'
        "<style>@import 'https://fonts.example/d.css'; /* url(https://example/e) */ x { src: url(f.woff2) }</style>"
    )
    assert [address for address in page.loads if is_foreign(address)] == [
        "https://cdn.example/a.css",
        "//cdn.example/b.js",
    ]
    assert page.pictures == [
        {"src": "data:image/png;base64,AA", "alt": "a dog", "style": "background:url(http://example/c.png)"}
    ]
    assert foreign_in_styles(page.styles) == ["http://example/c.png", "https://fonts.example/d.css"]


@pytest.mark.parametrize("name", NAMES)
def test_page_loads_nothing_from_elsewhere(pages, name):
    page = pages[name]
    assert [address for address in page.loads if is_foreign(address)] == []
    assert foreign_in_styles(page.styles) == []


@pytest.mark.parametrize("name", NAMES)
def test_everything_a_page_loads_is_there(built_book, pages, name):
    folder = (built_book / name).parent
    missing = []
    for address in pages[name].loads:
        path = unquote(urlsplit(address).path)
        if path and not address.startswith("data:") and not (folder / path).is_file():
            missing.append(address)
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_page_is_small(built_book, name):
    assert (built_book / f"{name}.html").stat().st_size <= LARGEST


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_is_described(pages, name):
    bare = [image.get("src", "")[:80] for image in pages[name].pictures if not (image.get("alt") or "").strip()]
    assert bare == []


@pytest.mark.parametrize("name", NAMES)
def test_page_names_no_folder_of_the_machine_that_built_it(built_book, name):
    text = (built_book / f"{name}.html").read_text(encoding="utf-8")
    assert str(ROOT) not in text and str(Path.home()) + "/" not in text


def test_style_sheets_of_the_pages_ask_for_nothing_elsewhere(built_book, pages):
    sheets = {
        ((built_book / name).parent / urlsplit(address).path).resolve()
        for name in NAMES
        for address in pages[name].loads
        if urlsplit(address).path.endswith(".css")
    }
    assert sheets
    assert not {path.name: found for path in sheets if (found := foreign_in_styles(path.read_text(encoding="utf-8")))}


def test_the_model_card_is_on_the_toybox_page_as_it_is(built_book):
    card = (ROOT / "elite" / "toybox" / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8")
    title = card.splitlines()[0].lstrip("# ").strip()
    page = (built_book / "book" / "toybox.html").read_text(encoding="utf-8").replace("’", "'")  # typeset quotes
    assert title and title in page
