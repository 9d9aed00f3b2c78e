"""Figures of a report: matplotlib to SVG that follows the page's light or dark theme, and to PNG."""
