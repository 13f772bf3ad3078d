"""A report as a picture: for each workload a bar for each system, as SVG."""

from __future__ import annotations

from html import escape
from typing import Any

LINE, NAME, BAR, FIGURE = 18, 200, 420, 220  # in pixels
OURS, THEIRS = "#2b6cb0", "#a0aec0"


def picture(content: dict[str, Any]) -> str:
    """Draw it. Bars of one workload have one scale: the rate, or how long an element takes there and back."""
    parts: list[str] = []
    y = LINE
    for name, workload in content["workloads"].items():
        unit = "µs there and back, less is better" if workload["there_and_back"] else "1000 elements/s"
        parts.append(_text(0, y, f"{name}: {workload['says']} ({unit})", "bold"))
        figures = {system: _figure(of_one) for system, of_one in workload["systems"].items()}
        for system, (length, says) in figures.items():
            y += LINE
            width = BAR * length / max(other for other, _ in figures.values())
            colour = OURS if system.startswith("aioflow") else THEIRS
            parts.append(_text(0, y, system))
            parts.append(f'<rect x="{NAME}" y="{y - 12}" width="{width:.1f}" height="{LINE - 4}" fill="{colour}"/>')
            parts.append(_text(NAME + width + 6, y, says))
        y += 2 * LINE
    size = f'width="{NAME + BAR + FIGURE}" height="{y}"'
    style = "font-family: sans-serif; font-size: 13px; background: white"
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{style}">', *parts, "</svg>", ""])


def _figure(of_one: dict[str, Any]) -> tuple[float, str]:
    """Return the length of a bar, and what stands beside it."""
    if of_one["p50_us"]:
        return of_one["p50_us"], f"{of_one['p50_us']:,.0f} (p99 {of_one['p99_us']:,.0f})"
    thousands = of_one["elements_per_s"]["median"] / 1000
    return thousands, f"{thousands:,.4g}, {of_one['gb_per_s']:.3g} GB/s"


def _text(x: float, y: int, says: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}">{escape(says)}</text>'
