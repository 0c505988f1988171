"""The parts of a page that stands alone: no scripts, nothing fetched, light or dark as the system is, printable.

Whatever is put in is escaped here, except what other parts of the page have made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 1.2rem clamp(1rem, 4vw, 2.5rem) 4rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
p, li, figcaption, dd { max-width: 46rem; overflow-wrap: anywhere; }
h1 { font-size: 1.15rem; margin: 0; color: var(--muted); font-weight: 600; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 3rem 0 .6rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
.verdict { font-size: clamp(1.5rem, 4.5vw, 2.1rem); line-height: 1.2; font-weight: 650; margin: .3rem 0 1.2rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); gap: .8rem;
  margin: 1rem 0; }
.tiles > div { border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
.tiles dt { font-size: .9rem; color: var(--muted); }
.tiles dd { margin: 0; font-size: 1.5rem; font-weight: 650; line-height: 1.3; }
.tiles dd small { display: block; font-size: .85rem; font-weight: 400; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem 2.5rem; }
.narrow { grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 24rem)); }
figure { margin: 1rem 0; break-inside: avoid; }
figcaption { font-size: .9rem; color: var(--muted); margin-top: .4rem; }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding-bottom: .3rem; }
th, td { padding: .28rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
thead th { vertical-align: bottom; font-weight: 600; }
td { white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; font-weight: 400; }
thead th:first-child { font-weight: 600; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--blue); }
summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
dl.data { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 1rem 0; font-size: .95rem; }
dl.data dt { color: var(--muted); }
dl.data dd { margin: 0; }
code { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .9em; }
@media (max-width: 40rem) {
  table { font-size: .82rem; }
  th, td { padding: .25rem .4rem; }
}
@page { margin: 1.5cm; }
@media print {
  tr { break-inside: avoid; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  h2 { break-after: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
  table { font-size: 8pt; }
  th, td { padding: .15rem .4rem; white-space: normal; }
  .scroll { overflow: visible; }
  summary { list-style: none; color: inherit; }
}
"""


def page(title: str, parts: Sequence[str], *, colours: Mapping[str, tuple[str, str]]) -> str:
    """colours: of variables, for a light page and for a dark one. Paper is light."""
    light, dark = (" ".join(f"--{name}: {pair[i]};" for name, pair in colours.items()) for i in (0, 1))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>\n:root {{ {light} }}",
            f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}{_STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            *parts,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str | None = None) -> str:
    return f"<p{_kind(kind)}>{escape(text)}</p>"


def bullets(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def tiles(entries: Sequence[tuple[str, str, str]]) -> str:
    """(what, figure, what has to be known with it)."""
    cells = (
        f"<div><dt>{escape(what)}</dt><dd>{escape(figure)} <small>{escape(more)}</small></dd></div>"
        for what, figure, more in entries
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def terms(entries: Sequence[tuple[str, str]]) -> str:
    pairs = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in entries)
    return f'<dl class="data">{pairs}</dl>'


def figure(svg: str, caption: str, *, label: str, title: str = "") -> str:
    """svg: as `router.plots` makes it. label: what the picture shows, for those who can't see it."""
    named = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    above = heading(title, 3) if title else ""
    return f"<figure>{above}{named}<figcaption>{escape(caption)}</figcaption></figure>"


def beside(parts: Sequence[str], *, narrow: bool = False) -> str:
    return f'<div class="side{" narrow" if narrow else ""}">{"".join(parts)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str) -> str:
    """Each row is named by its first cell."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def folded(summary: str, inside: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def _kind(name: str | None) -> str:
    return "" if name is None else f' class="{name}"'
