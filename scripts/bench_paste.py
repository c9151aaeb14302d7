#!/usr/bin/env python3
"""Puts the sections of out/bench/tables.md between their marks in docs/PERFORMANCE.md: bench_paste.py [TABLES [PAGE]].

A section NAME goes between `<!-- bench:NAME -->` and `<!-- end -->`. Sections that were not measured leave what is there. The
trace's picture goes beside the page.
"""

import re
import shutil
import sys
from pathlib import Path

tables = Path(sys.argv[1] if len(sys.argv) > 1 else "out/bench/tables.md")
page = Path(sys.argv[2] if len(sys.argv) > 2 else "docs/PERFORMANCE.md")
text = page.read_text()
for part in re.split(r"^## ", tables.read_text(), flags=re.MULTILINE)[1:]:
    name, body = part.split("\n", 1)
    mark = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if name == "trace":
        continue
    if "Not measured:" in body:
        print(f"{name}: not measured, left as it was")
    elif not mark.search(text):
        print(f"{name}: no mark in {page}")
    else:
        text = mark.sub(lambda found: found[1] + body.strip() + "\n" + found[2], text)
        print(f"{name}: pasted")
page.write_text(text)
picture = tables.parent / "trace.svg"
if picture.exists():
    shutil.copy(picture, page.parent / "trace.svg")
    print(f"{picture}: copied")
