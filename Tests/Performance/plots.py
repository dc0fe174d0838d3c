# SPDX-License-Identifier: MIT
"""Plots as SVG, drawn by hand so that nothing has to be installed."""

from xml.sax.saxutils import escape

COLOURS = ["#1f6f8b", "#5fb49c", "#d1495b", "#edae49", "#8d6a9f", "#66717e", "#2e4057", "#a3b18a"]
STYLE = "font-family='sans-serif' font-size='12' fill='#222'"


def document(width, height, parts):
    """A picture on white."""
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 {width} {height}'>"
        f"<rect width='{width}' height='{height}' fill='white'/>{''.join(parts)}</svg>\n")


def text(x, y, words, extra=""):
    """A label."""
    return f"<text x='{x:.1f}' y='{y:.1f}' {STYLE} {extra}>{escape(words)}</text>"


def bars(title, unit, groups):
    """Horizontal bars: group name -> [(name, value, least, most)], each group on a scale of its own."""
    row, left, width = 18, 130, 760
    parts, y = [text(10, 22, title, "font-weight='bold'")], 44
    for group, values in groups.items():
        parts.append(text(10, y, group, "font-weight='bold'"))
        y += 8
        largest = max(most for _, _, _, most in values) or 1
        for place, (name, value, least, most) in enumerate(values):
            scale = (width - left - 120) / largest
            colour = COLOURS[place % len(COLOURS)]
            parts.append(text(left - 8, y + 12, name, "text-anchor='end'"))
            parts.append(f"<rect x='{left}' y='{y + 2}' width='{value * scale:.1f}' height='12' fill='{colour}'/>")
            parts.append(
                f"<path d='M{left + least * scale:.1f} {y + 8}H{left + most * scale:.1f}' stroke='#222' "
                "stroke-width='1.5'/>")
            parts.append(text(left + most * scale + 6, y + 12, f"{value:.4g} {unit}"))
            y += row
        y += 22
    return document(width, y, parts)


def lines(title, x_name, y_name, series):
    """Curves over a logarithmic axis of powers of two: name -> [(x, y)]."""
    import math
    width, height, left, bottom = 760, 360, 70, 310
    xs = sorted({x for points in series.values() for x, _ in points})
    largest = max(y for points in series.values() for _, y in points) * 1.05 or 1
    low, high = math.log2(xs[0]), math.log2(xs[-1]) if len(xs) > 1 else math.log2(xs[0]) + 1
    def across(x):
        return left + (math.log2(x) - low) / ((high - low) or 1) * (width - left - 150)
    def up(y):
        return bottom - y / largest * (bottom - 50)
    parts = [text(10, 22, title, "font-weight='bold'"), text(10, 42, y_name), text(width / 2 - 60, height - 8, x_name)]
    parts.append(f"<path d='M{left} 50V{bottom}H{width - 140}' fill='none' stroke='#222'/>")
    for x in xs:
        parts.append(text(across(x), bottom + 18, f"{x:g}", "text-anchor='middle'"))
    for part in range(5):
        value = largest * part / 4
        parts.append(text(left - 6, up(value) + 4, f"{value:.3g}", "text-anchor='end'"))
        parts.append(f"<path d='M{left} {up(value):.1f}H{width - 140}' stroke='#ddd'/>")
    for place, (name, points) in enumerate(series.items()):
        colour = COLOURS[place % len(COLOURS)]
        path = " ".join(f"{'L' if index else 'M'}{across(x):.1f} {up(y):.1f}" for index, (x, y) in enumerate(points))
        parts.append(f"<path d='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        for x, y in points:
            parts.append(f"<circle cx='{across(x):.1f}' cy='{up(y):.1f}' r='3' fill='{colour}'/>")
        parts.append(text(width - 134, up(points[-1][1]) + 4, name, f"style='fill:{colour}'"))
    return document(width, height, parts)
