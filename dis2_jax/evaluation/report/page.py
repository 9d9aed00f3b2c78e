"""Sections to one HTML page. Every text is escaped here; only drawn SVG passes as it is."""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Sequence

import jinja2
from markupsafe import Markup

from dis2_jax.evaluation.report.blocks import Picture, Section
from dis2_jax.evaluation.report.drawing.style import printable


@dataclasses.dataclass(frozen=True)
class Head:
    """Title of the page, one sentence under it, and the small print at its end."""

    title: str
    lead: str
    foot: str


def write_page(head: Head, sections: Sequence[Section]) -> str:
    """Return the page: one file that needs no other, no network and no script."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dis2_jax.evaluation.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {"data_uri": _data_uri, "breakable": _breakable}
    style, _, _ = (
        environment.loader.get_source(environment, "style.css") if environment.loader else ("", 0, 0)
    )
    page = environment.get_template("page.html.j2")
    return page.render(head=head, sections=sections, style=Markup(style), drawn=Markup)


def _breakable(text: str) -> Markup:
    """Let a long name break behind ``_`` and ``+``."""
    parts = re.split(r"(?<=[_+])", printable(text))
    return Markup("<wbr>").join(parts)


def _data_uri(picture: Picture) -> str:
    return f"data:{picture.mime};base64,{base64.b64encode(picture.data).decode('ascii')}"
