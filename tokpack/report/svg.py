"""A chart as SVG that lives inside a page: no name spaces, no fonts, no ids, tooltips that need no script."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

DROPPED = ("class", "role", "font-family", "pointer-events", "version", "opacity")
"""Attributes of Vega's SVG that the page does not need."""


def draw(chart: Any, title: str, width: int, height: int, padding: dict[str, int] | None = None) -> str:
    """A chart as SVG for use inside a page."""
    import vl_convert

    spec = chart.to_dict(validate=False)  # Altair's own setters copy all layers each
    spec |= {"width": width, "height": height, "padding": padding or 0, "background": "transparent"}
    config = spec.get("config", {})
    view = config.get("view", {}) | {"stroke": None}
    spec["config"] = config | {"view": view, "autosize": {"type": "none"}}
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    extra = padding or {"left": 0, "right": 0, "top": 0, "bottom": 0}
    size = (width + extra["left"] + extra["right"], height + extra["top"] + extra["bottom"])
    return inline(svg, title, size)


def inline(svg: str, title: str, size: tuple[int, int]) -> str:
    """Keep shapes and words: no fonts, no empty paths; a mark's description becomes its tooltip."""
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith("path") and not child.get("fill"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        about = element.get("aria-label") if element.tag == "path" else None
        for name in [n for n in element.attrib if n in DROPPED or n.startswith("aria-")]:
            del element.attrib[name]
        if about:
            ElementTree.SubElement(element, "title").text = about
    width, height = size
    root.attrib.clear()
    root.attrib.update(
        {
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "role": "img",
            "aria-label": title,
        }
    )
    return ElementTree.tostring(root, encoding="unicode")
