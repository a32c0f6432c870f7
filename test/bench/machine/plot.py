# SPDX-License-Identifier: Apache-2.0
"""Bars as SVG, by hand: nothing to install, and small differences in a diff."""
from xml.sax.saxutils import escape

LABEL, BAR, LINE, HEAD, GAP = 150, 300, 18, 34, 24
COLUMNS = 2
OURS = "#1f6fb4"
OTHERS = "#b5b5b5"


def panel(x, y, title, bars, limit):
    """bars: (name, value, ours); limit: a line to stay left of, or None."""
    top = max([value for _, value, _ in bars] + [limit or 0]) or 1
    lines = [f'<text x="{x}" y="{y + 16}" class="title">{escape(title)}'
             '</text>']
    for index, (name, value, ours) in enumerate(bars):
        row = y + HEAD + index * LINE
        width = max(value, 0) / top * BAR
        colour = OURS if ours else OTHERS
        lines.append(f'<text x="{x + LABEL - 6}" y="{row + 12}" '
                     f'text-anchor="end">{escape(name)}</text>')
        lines.append(f'<rect x="{x + LABEL}" y="{row + 2}" '
                     f'width="{width:.1f}" height="{LINE - 5}" '
                     f'fill="{colour}"/>')
        lines.append(f'<text x="{x + LABEL + width + 4:.1f}" y="{row + 12}">'
                     f'{value:,.1f}</text>')
    if limit is not None:
        at = x + LABEL + limit / top * BAR
        lines.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y + HEAD}" '
                     f'y2="{y + HEAD + len(bars) * LINE}" class="limit"/>')
    return lines


def bars(title, panels):
    """panels: (title, bars, limit). The text of an SVG file."""
    tallest = max(len(found) for _, found, _ in panels) * LINE + HEAD + GAP
    wide = LABEL + BAR + 90
    rows = -(-len(panels) // COLUMNS)
    width, height = wide * COLUMNS + 20, tallest * rows + 40
    lines = [
        '<!-- SPDX-License-Identifier: Apache-2.0', '-->',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}">',
        '<style>text{font:12px sans-serif}.title{font-weight:bold}'
        '.limit{stroke:#c0392b;stroke-width:2;stroke-dasharray:4 3}</style>',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" class="title">{escape(title)}</text>']
    for index, (name, found, limit) in enumerate(panels):
        lines += panel(10 + index % COLUMNS * wide,
                       34 + index // COLUMNS * tallest, name, found, limit)
    return "\n".join(lines + ["</svg>", ""])
