#!/usr/bin/env python3
"""check.py README OUTPUT: whether the tour printed what it promises.

Standard output of the tour is no terminal, so results are JSON lines; README shows the tables of a terminal.
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


def promised(readme):
    """The hits that README shows: (rank, similarity, distance, score, end of the URL)."""
    tour = readme.split("\n## Tour\n")[1].split("\n## ")[0]
    row = re.compile(r"^ +(\d+) +(\d\.\d{4}) +(\d\.\d{4}) +(\d\.\d{4}) .*/(\S+)$", re.MULTILINE)
    return [(int(rank), similarity, distance, score, name) for rank, similarity, distance, score, name in row.findall(tour)]


def main():
    readme, output = (open(path, encoding="utf-8").read() for path in sys.argv[1:3])
    lines = records(output)
    hits = [record for record in lines if "rank" in record]
    shown = [
        (hit["rank"], *(f"{hit[name]:.4f}" for name in ("similarity", "distance", "score")), hit["url"].rsplit("/", 1)[1])
        for hit in hits
    ]
    indexed = [(r["indexed"], r["unchanged"], r["failed"]) for r in lines if "indexed" in r]
    places = [(r["where"].rsplit("/", 1)[-1], r["found"]) for r in lines if "where" in r]
    first = readme.split('/photos/coffee.png","embedding":[')[1].split(",")[0]

    checks = {
        "20 photographs are indexed": indexed == [(20, 0, 0)],
        "the hits are those of README": shown == promised(readme) and len(shown) == 4,
        "the original of the altered copy is the first hit": [shown[i][-1] for i in (0, 3)] == ["astronaut.png"] * 2,
        "metadata comes back with the hit": hits[-1]["id"] == "astronaut" and hits[-1]["metadata"] == {"who": "Eileen Collins"},
        "the features are those of README": f'/coffee.png","embedding":[{first[:6]}' in output,
        "the index exists": any(r.get("index") == "photos-v1" and not r["problems"] for r in lines),
        "three references are published": "3 accepted, 0 refused" in output,
        "the private address is a dead letter": [r["url"] for r in lines if r.get("reason") == "refused_address"]
        == ["http://169.254.169.254/latest/meta-data"],
        "why finds the document": ("photos", True) in places,
    }
    for what, holds in checks.items():
        print(f"{'ok' if holds else 'FAILED':6}  {what}", file=sys.stderr)
    if not all(checks.values()):
        print(f"printed hits: {shown}\nREADME's hits: {promised(readme)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
