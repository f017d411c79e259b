"""The appendix of claims, made from ``book/claims.yml``: the entries of a section, and how many claims came to what."""

from __future__ import annotations

from collections import Counter
from typing import Any

from claims_check import ledger_problems, number_problems, result_path
from claims_ledger import LEDGER, ROOT, SECTIONS, Entry, read_ledger
from docutils import nodes
from elite_book import literals, make_table
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

UNEASY = "uneasy"

logger = logging.getLogger(__name__)


class Claims(SphinxDirective):
    """``{claims} Sec. 4.2``: the entries whose place begins there; ``{claims} uneasy``: those on the paper itself."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(LEDGER))
        wanted = self.arguments[0]
        if wanted not in (*SECTIONS, UNEASY):
            raise self.error(f"claims must be a section of the paper or {UNEASY}, got {wanted!r}")
        entries = [entry for entry in read_ledger() if wanted == (UNEASY if entry.uneasy else entry.place[0])]
        listed = nodes.definition_list(classes=["elite-claims"])
        listed += [_item(entry, entry.place if wanted == UNEASY else entry.place[1:]) for entry in entries]
        return [listed] if entries else []


class ClaimsSummary(SphinxDirective):
    """``{claims-summary}``: how many entries have which verdict."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(LEDGER))
        counts = Counter(entry.verdict for entry in read_ledger())
        rows = [[verdict, str(times)] for verdict, times in counts.most_common()]
        return [make_table(["Verdict", "Claims"], [*rows, ["in all", str(counts.total())]])]


def _item(entry: Entry, places: tuple[str, ...]) -> nodes.definition_list_item:
    term = nodes.term("", entry.claim, ids=[f"claim-{entry.id}"])
    if places:
        term += nodes.Text(f" ({', '.join(places)})")
    body = nodes.definition("", nodes.paragraph("", "", nodes.strong("", entry.verdict.capitalize() + ".")))
    if entry.paper:
        body += nodes.paragraph("", f"The paper: {entry.paper}.")
    if entry.numbers:
        body += _numbers(entry)
    if entry.arithmetic:
        sums = (f"{one.of}: {one.sum} = {one.gives}" for one in entry.arithmetic)
        body += nodes.line_block("", *(nodes.line("", text) for text in sums))
    if entry.because:
        body += nodes.paragraph("", entry.because)
    for title, names in (("With Stable Diffusion:", entry.commands), ("Held by:", entry.tests)):
        if names:
            body += [nodes.paragraph("", title), literals(list(names))]
    return nodes.definition_list_item("", term, body)


def _numbers(entry: Entry) -> nodes.Element:
    files = sorted({str(result_path(number.file).relative_to(ROOT)) for number in entry.numbers})
    box = nodes.line_block()
    for number in entry.numbers:
        box += nodes.line("", f"{number.of}: {number}")
    box += nodes.line("", "from ", *_joined([nodes.literal("", name) for name in files]))
    return box


def _joined(parts: list[nodes.Node]) -> list[nodes.Node]:
    return [piece for number, part in enumerate(parts) for piece in ([nodes.Text(", ")] * bool(number) + [part])]


def check_ledger(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn where the ledger is at odds with itself or with a result file; warnings are errors in this book."""
    entries = read_ledger()
    for problem in [*ledger_problems(entries), *number_problems(entries)]:
        logger.warning("book/claims.yml: %s", problem)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("claims", Claims)
    app.add_directive("claims-summary", ClaimsSummary)
    app.connect("env-check-consistency", check_ledger)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
