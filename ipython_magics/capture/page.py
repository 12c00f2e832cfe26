"""A notebook as one HTML page that loads and runs nothing: an artifact of its run.

nbconvert makes the cells; what an output holds stays as it is, and is shown by a page whose policy lets no script run,
nothing be fetched and no form be sent, wherever it is opened. MLflow shows it in a frame without an origin besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; form-action 'none'; base-uri 'none'"
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ head.title }}</title>
<style>
{{ colors }}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1.25rem;color:#1f2328;background:#fff}
header{border-bottom:1px solid #d0d7de;margin-bottom:1.25rem}
h1{font-size:1.35rem;margin:0 0 .25rem}
header p{margin:0 0 .5rem;color:#57606a}
header .bad{color:#a40e26}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.5rem 0 1rem}
dt{color:#57606a}dd{margin:0;overflow-wrap:anywhere}
.cell{margin:0 0 1rem}
.prompt{font:12px ui-monospace,monospace;color:#57606a}
.highlight pre,.output_text pre{margin:0;overflow-x:auto;font:13px/1.45 ui-monospace,monospace}
.input_area{background:#f6f8fa;border:1px solid #d0d7de;border-radius:6px;padding:.6rem .75rem}
.output_subarea{padding:.35rem .75rem;overflow-x:auto}
.output_stderr{background:#fff8f0}.output_error{background:#fff1f0}
.output_png img,.output_jpeg img{max-width:100%}
table{border-collapse:collapse;font-size:13px}
th,td{padding:.2rem .6rem;border-bottom:1px solid #d8dee4;text-align:right}
.anchor-link{display:none}
.ansi-red-fg{color:#a40e26}.ansi-green-fg{color:#116329}.ansi-blue-fg{color:#0550ae}.ansi-bold{font-weight:bold}
</style></head><body><header><h1>{{ head.title }}</h1>
<p{% if head.bad %} class="bad"{% endif %}>{{ head.sentence }}</p>
<dl>{% for name, value in head.facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl></header>
<main>{{ cells }}</main></body></html>
"""


@dataclass(frozen=True)
class Head:
    """What stands over the cells; all of it is text.

    Attributes:
        bad: whether the sentence tells of a failure. facts: names and values.
    """

    title: str
    sentence: str
    bad: bool = False
    facts: Sequence[tuple[str, str]] = field(default=())


def render(notebook: Mapping[str, Any], head: Head) -> str:
    """The page. It takes a second or two: nbconvert's imports."""
    import nbformat
    from jinja2 import Environment
    from markupsafe import Markup
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    read: Any = nbformat.from_dict
    cells, _ = HTMLExporter(template_name="basic").from_notebook_node(read(dict(notebook)))
    colors = HtmlFormatter().get_style_defs(".highlight")
    page = Environment(autoescape=True).from_string(_PAGE)
    # nbconvert escapes what is text; what is HTML in an output is held by the policy, which comes before it
    return page.render(policy=POLICY, head=head, colors=Markup(colors), cells=Markup(cells))  # noqa: S704
