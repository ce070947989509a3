#!/usr/bin/env python3
"""check.py README OUTPUT: whether the tour printed what README promises.

The output is not a terminal, so most results are JSON lines where README shows the tables of a terminal.
"""

import json
import re
import sys


def records(output):
    """Every line that is a JSON object."""
    found = []
    for line in output.splitlines():
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                pass  # cut off by the tour itself
    return found


# A hit in a table: rank, similarity, distance, score, end of the URL.
ROW = re.compile(r"^ +(\d+) +(\d\.\d{4}) +(\d\.\d{4}) +(\d\.\d{4}) .*/(\S+)$", re.MULTILINE)


def same(printed, promised):
    """Whether two lists of hits agree; the fourth decimal may differ between instruction sets."""
    near = lambda a, b: all(abs(float(x) - float(y)) < 1.5e-4 for x, y in zip(a[1:4], b[1:4]))
    return len(printed) == len(promised) and all(
        a[0] == b[0] and a[-1] == b[-1] and near(a, b) for a, b in zip(printed, promised)
    )


def main():
    readme, output = (open(path, encoding="utf-8").read() for path in sys.argv[1:3])
    tour = readme.split("\n## Tour\n")[1].split("\n## ")[0]
    promised = ROW.findall(tour)
    lines = records(output)
    numbers = ("similarity", "distance", "score")
    printed = [
        (str(hit["rank"]), *(f"{hit[name]:.4f}" for name in numbers), hit["url"].rsplit("/", 1)[1]) for hit in lines if "rank" in hit
    ]
    printed += ROW.findall(output)
    feature = tour.split('"embedding":[')[1][:6]

    checks = {
        "20 photographs are indexed": [(r["indexed"], r["failed"]) for r in lines if "indexed" in r] == [(20, 0)],
        "the hits are those of README": same(printed, promised) and len(printed) == 4,
        "the original of the altered copy is the first hit": [hit[-1] for hit in printed if hit[0] == "1"] == ["astronaut.png"] * 2,
        "the features are those of README": f'"embedding":[{feature}' in output,
        "the index is created": any(r.get("index") == "photos-v1" and not r["problems"] for r in lines),
        "three references are accepted": "3 accepted, 0 refused\n" in output,
        "the private address is a dead letter": re.search(r"^\w{64} +refused_address .*169\.254\.169\.254", output, re.MULTILINE),
        "why finds the document": any(r.get("found") and "indexed" in r["detail"] for r in lines),
    }
    for what, holds in checks.items():
        print(f"{'ok' if holds else 'FAILED':6}  {what}", file=sys.stderr)
    if not all(checks.values()):
        print(f"printed hits: {printed}\nREADME's hits: {promised}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
