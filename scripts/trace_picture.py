#!/usr/bin/env python3
"""Draws one frame of a trace (`sparse_refine … --trace trace.json`) as SVG: a row a thread, a bar a span.

    trace_picture.py trace.json docs/trace.svg [--frame 2]
"""

import argparse
import html
import json
from pathlib import Path

WIDTH, LEFT, ROW, GAP = 1000, 90, 26, 8
COLOURS = {
    "upload": "#8da0cb", "preprocess": "#66c2a5", "segment": "#fc8d62", "select": "#e5c494", "refine": "#a6d854",
    "fuse": "#e78ac3", "download": "#b3b3b3", "index": "#ffd92f", "down": "#c7e9a0", "stride": "#b2df8a", "up": "#7fbc41", "decode": "#b3b3b3",
}


def spans(events):
    """(thread, depth, name, arguments, start, end) in microseconds."""
    names, stacks, found = {}, {}, []
    for event in events:
        thread = event.get("tid")
        if event["ph"] == "M" and event["name"] == "thread_name":
            names[thread] = event["args"]["name"]
        elif event["ph"] == "B":
            stacks.setdefault(thread, []).append(event)
        elif event["ph"] == "E" and stacks.get(thread):
            begin = stacks[thread].pop()
            found.append((thread, len(stacks[thread]), begin["name"], begin.get("args", {}), begin["ts"], event["ts"]))
    return names, found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--frame", type=int, default=2, help="which frame, from 0; the first ones take memory")
    a = parser.parse_args()
    names, found = spans(json.loads(a.trace.read_text()))
    frames = sorted((s for s in found if s[2] == "frame"), key=lambda s: s[4])
    if a.frame >= len(frames):
        raise SystemExit(f"the trace has {len(frames)} frames: {a.trace}")
    worker, outer, _, _, start, end = frames[a.frame]
    inside = [s for s in found if start <= s[4] and s[5] <= end and s[2] != "frame"]
    rows = [worker] + sorted({s[0] for s in inside} - {worker}, key=lambda thread: names.get(thread, ""))
    scale = (WIDTH - LEFT - 10) / (end - start)
    height = len(rows) * (ROW + GAP) + 50
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>']
    for row, thread in enumerate(rows):
        y = 10 + row * (ROW + GAP)
        label = "frame" if thread == worker else names.get(thread, str(thread))
        parts.append(f'<text x="4" y="{y + 17}">{html.escape(label)}</text>')
        for _, depth, name, arguments, begin, stop in sorted((s for s in inside if s[0] == thread), key=lambda s: s[4]):
            x, width = LEFT + (begin - start) * scale, (stop - begin) * scale
            title = f"{name} {(stop - begin) / 1000:.1f} ms" + "".join(f", {k} {v}" for k, v in arguments.items() if k[0] != "[")
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{max(width, 0.3):.1f}" height="{ROW}" stroke="#fff" stroke-width="0.3" '
                         f'fill="{COLOURS.get(name, "#ddd")}"><title>{html.escape(title)}</title></rect>')
            if width > 7 * len(name):
                time = f" {(stop - begin) / 1000:.0f}" if width > 7 * len(name) + 30 else ""
                parts.append(f'<text x="{x + 3:.1f}" y="{y + 17}">{html.escape(name + time)}</text>')
    y = height - 14
    step = next(n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000) if (end - start) / 1000 / n <= 14)
    for tick in range(0, int((end - start) / 1000) + 1, step):
        parts.append(f'<text x="{LEFT + tick * 1000 * scale:.1f}" y="{y}" text-anchor="middle">{tick}</text>')
    parts.append(f'<text x="4" y="{y}">ms</text></svg>\n')
    a.picture.write_text("\n".join(parts))
    print(f"{a.picture}: frame {a.frame} of {len(frames)}, {(end - start) / 1000:.1f} ms, {len(rows)} threads")


if __name__ == "__main__":
    main()
