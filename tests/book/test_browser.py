"""The built book in a real browser, with the network off: pages load, figures move, formulas are set, search finds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
PAGES = sorted(set(re.findall(r"book/[\w/]+", (ROOT / "_toc.yml").read_text(encoding="utf-8"))))
NOTEBOOK_PAGES = [page for page in PAGES if (ROOT / f"{page}.ipynb").exists()]
LARGEST_PAGE = 1_500_000  # bytes of HTML, pictures included

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser tests")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium found: the built pages are not tested in a browser"
)


class Visit:
    """A page of the book, with everything it complained about and every foreign address it asked for."""

    def __init__(self, page: api.Page, address: str) -> None:
        self.page, self.address = page, address
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda r: self.complaints.append(f"failed: {r.url}"))
        page.on("response", lambda r: self.complaints.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
        page.route("**/*", self.gate)

    def gate(self, route: api.Route) -> None:
        if route.request.url.startswith((self.address, "data:", "blob:")):
            route.continue_()
        else:
            self.foreign.append(route.request.url)
            route.abort()

    def open(self, name: str) -> api.Page:
        self.page.goto(f"{self.address}/{name}.html", wait_until="load")
        self.page.wait_for_function("!window.MathJax?.startup || MathJax.startup.promise.then(() => true)")
        return self.page


@pytest.fixture(scope="session")
def browser() -> Iterator[api.Browser]:
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def visits(browser: api.Browser, book_address: str) -> Iterator[Callable[[str], Visit]]:
    """Gives a page by its name; each page is loaded once and shared by the tests."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    loaded: dict[str, Visit] = {}

    def get(name: str) -> Visit:
        if name not in loaded:
            loaded[name] = Visit(context.new_page(), book_address)
            loaded[name].open(name)
        return loaded[name]

    yield get
    context.close()


@pytest.fixture
def visit(visits: Callable[[str], Visit], name: str) -> Visit:
    return visits(name)


@pytest.mark.parametrize("name", PAGES)
def test_page_loads_alone_and_in_silence(visit):
    assert visit.foreign == []
    assert visit.complaints == []
    assert visit.page.locator("h1").count() >= 1


@pytest.mark.parametrize("name", PAGES)
def test_page_is_small_and_every_picture_has_alt_text(built_book: Path, visit, name):
    assert (built_book / f"{name}.html").stat().st_size <= LARGEST_PAGE
    page = visit.page
    bare = page.eval_on_selector_all(
        "article img", "all => all.filter(i => !i.alt.trim()).map(i => i.src.slice(0, 80))"
    )
    assert bare == []
    broken = page.eval_on_selector_all("article img", "all => all.filter(i => i.complete && !i.naturalWidth).length")
    assert broken == 0


@pytest.mark.parametrize("name", PAGES)
def test_page_does_not_scroll_sideways_on_a_phone(visit):
    visit.page.set_viewport_size({"width": 390, "height": 800})
    try:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    finally:
        visit.page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.parametrize("name", NOTEBOOK_PAGES)
def test_every_control_changes_its_picture_by_key(visit):
    page = visit.page
    figures = page.locator(".elite-interactive")
    for number in range(figures.count()):
        figure = figures.nth(number)
        controls = figure.locator("[data-stride]")
        for place in range(controls.count()):
            control = controls.nth(place)
            before = shown_frame(figure)
            kind = control.get_attribute("type") or "select"
            at_end = kind != "checkbox" and control.evaluate("c => +c.value == c.dataset.labels.split('|').length - 1")
            control.focus()
            page.keyboard.press(key_that_moves(kind, at_end))
            after = shown_frame(figure)
            where = f"figure {number}, control {place}"
            assert len(before) == len(after) == 1, f"{where}: {len(after)} frames are shown at once"
            assert before != after, f"{where} shows the same frame after a key press"
            text = control.evaluate("c => c.dataset.labels.split('|')[c.type == 'checkbox' ? +c.checked : +c.value]")
            printed = figure.locator("label").nth(place).locator("output")
            if printed.count():
                assert printed.inner_text() == text


@pytest.mark.parametrize("name", NOTEBOOK_PAGES)
def test_sliders_follow_the_mouse(visit):
    page = visit.page
    sliders = page.locator(".elite-interactive input[type=range]")
    for number in range(sliders.count()):
        slider = sliders.nth(number)
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        for end in (0.98, 0.02):
            page.mouse.click(box["x"] + box["width"] * end, box["y"] + box["height"] / 2)
            wanted = "0" if end < 0.5 else slider.get_attribute("max")
            assert slider.input_value() == wanted


@pytest.mark.parametrize("name", PAGES)
def test_formulas_are_typeset(visit):
    page = visit.page
    formulas = page.locator("article .math").count()
    if not formulas:
        return
    assert page.locator("article mjx-container").count() >= formulas
    assert page.locator("article mjx-merror").count() == 0
    assert page.locator("article .math:not(:has(mjx-container))").count() == 0


def test_search_finds_the_fusion_weight(browser, book_address):
    visit = Visit(browser.new_page(), book_address)
    page = visit.page
    page.goto(f"{book_address}/search.html?q=fusion", wait_until="load")
    page.wait_for_selector("#search-results li a", timeout=10_000)
    assert page.locator("#search-results li a").count() >= 1
    assert (visit.foreign, visit.complaints) == ([], [])
    page.close()


def test_internal_links_lead_somewhere(visits, book_address, built_book: Path):
    ids: dict[Path, set[str]] = {}
    dead = []
    for name in PAGES:
        page = visits(name).page
        here = f"{book_address}/{name}.html"
        for href in page.eval_on_selector_all(
            "main a[href], nav a[href]", "all => all.map(a => a.getAttribute('href'))"
        ):
            target, anchor = urldefrag(urljoin(here, href))
            if not target.startswith(book_address) or href.startswith("javascript:"):
                continue
            path = built_book / unquote(target.removeprefix(book_address)).lstrip("/")
            if not path.is_file():
                dead.append((name, href))
            elif anchor and path.suffix == ".html":
                if path not in ids:
                    ids[path] = set(re.findall(r'\bid="([^"]+)"', path.read_text(encoding="utf-8")))
                if unquote(anchor) not in ids[path]:
                    dead.append((name, href))
    assert dead == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", NOTEBOOK_PAGES)
def test_labels_of_figures_are_readable_in_both_themes(visit, theme):
    page = visit.page
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    weak = page.evaluate(CONTRAST)
    assert weak == []


# The contrast of every visible label of a figure with the nearest painted background behind it (WCAG asks for 4.5).
CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v =>
    v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const weak = [];
  for (const e of document.querySelectorAll('.elite-interactive label, .elite-figure figcaption')) {
    if (!e.offsetParent) continue;
    const a = light(rgb(getComputedStyle(e).color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) weak.push([e.textContent.slice(0, 40), ratio]);
  }
  return weak;
}"""


def shown_frame(figure: api.Locator) -> list[int]:
    return figure.locator(".elite-frame").evaluate_all(
        "all => all.map((e, i) => e.offsetParent !== null ? i : -1).filter(i => i >= 0)"
    )


def key_that_moves(kind: str, at_end: bool) -> str:
    if kind == "checkbox":
        return "Space"
    back, on = ("ArrowUp", "ArrowDown") if kind == "select" else ("ArrowLeft", "ArrowRight")
    return back if at_end else on
