#!/usr/bin/env python3
"""Queue to Elasticsearch with one vendor's emoji, then searches with another vendor's: a check at real scale.

The same emoji drawn by another vendor has the same file name, which makes a retrieval truth: for each query image the
place of its namesake in the ranking is known. Everything runs as a user would run it: `imgdex publish`, `imgdex worker`,
`imgdex search --id`, against real services.

usage: retrieval.py --images DIR --amqp URL --es URL [--binary PATH] [--stored N] [--queries N] [--models M,M] [--check]

DIR holds one folder of PNGs per vendor, as tests/images/emoji.sh makes them. `--stored` and `--queries` take an evenly
spaced part of the files (0: all). `--check` fails unless every reference is accounted for and recall is above a floor.
Needs nothing but Python's standard library.
"""

import argparse
import collections
import functools
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
import urllib.request
import uuid

MODES = ["cosine", "dot", "l1", "l2"]
PLACES = [1, 5, 10]
# Recall of the first place below which something is broken, not merely less good: chance is below 0.01.
FLOOR = {"vgg16": 0.35, "vgg16-keras": 0.2}


def main():
    args = arguments()
    stored_names, query_names = choose(args)
    server = serve(args.images)
    base = f"http://127.0.0.1:{server.server_address[1]}"
    failures = []
    for model in args.models.split(","):
        run = Run(args, model, base)
        with run.worker():
            run.index(stored_names, query_names)
        for mode in MODES:
            shares = run.search(query_names, mode)
            print(row(model, mode, shares), flush=True)
            if args.check and shares[1] < FLOOR[model]:
                failures.append(f"{model} {mode}: {shares[1]:.2f} of the queries find their namesake first, "
                                f"less than {FLOOR[model]}")
        run.drop()
    if failures:
        sys.exit("retrieval.py: " + "; ".join(failures))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=pathlib.Path, required=True)
    parser.add_argument("--amqp", required=True)
    parser.add_argument("--es", required=True)
    parser.add_argument("--binary", default="imgdex")
    parser.add_argument("--stored-vendor", default="apple")
    parser.add_argument("--query-vendor", default="google")
    parser.add_argument("--stored", type=int, default=0)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--models", default="vgg16,vgg16-keras")
    parser.add_argument("--check", action="store_true")
    return parser.parse_args()


def choose(args):
    """Names that both vendors have: those to store, and among them those to search with."""
    def names(vendor):
        return {path.name for path in (args.images / vendor).glob("*.png")}
    common = sorted(names(args.stored_vendor) & names(args.query_vendor))
    if not common:
        sys.exit(f"retrieval.py: no common PNGs under {args.images}; run tests/images/emoji.sh first")
    stored = spaced(common, args.stored)
    return stored, spaced(stored, args.queries)


def spaced(names, count):
    """`count` names at even distances; all of them for 0."""
    if count == 0 or count >= len(names):
        return names
    return [names[i * len(names) // count] for i in range(count)]


def serve(folder):
    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Run:
    """One model's pass: an index, a queue, a worker."""

    def __init__(self, args, model, base):
        self.args, self.model, self.base = args, model, base
        self.tag = f"retrieval-{model}-{uuid.uuid4().hex[:8]}"
        self.store = f"{args.es}/{self.tag}"
        self.admin = None

    def imgdex(self, *arguments, stdin=None):
        result = subprocess.run([self.args.binary, *arguments], input=stdin, text=True, capture_output=True)
        if result.returncode != 0:
            sys.exit(f"retrieval.py: imgdex {' '.join(arguments)} ended with {result.returncode}:\n{result.stderr}")
        return result.stdout

    def worker(self):
        self.imgdex("mappings", "apply", "--store", self.store, "--model", self.model)
        return Worker(self)

    def index(self, stored, queries):
        broken = [f"{self.base}/missing/{i}.png" for i in range(3)]
        lines = [self.reference(self.args.stored_vendor, name) for name in stored]
        lines += [self.reference(self.args.query_vendor, name) for name in queries]
        lines += [json.dumps({"id": f"broken-{i}", "url": url}) for i, url in enumerate(broken)]
        start = time.monotonic()
        self.imgdex("publish", "--amqp", self.args.amqp, "--queue", self.tag, "-", stdin="\n".join(lines) + "\n")
        counts = self.drained(len(lines))
        seconds = time.monotonic() - start
        print(f"{self.model}: {len(lines)} references in {seconds:.0f} s ({len(lines) / seconds:.1f}/s): "
              + ", ".join(f"{count:.0f} {outcome}" for outcome, count in sorted(counts.items()) if count), flush=True)
        self.refresh()
        documents = self.http("GET", f"/{self.tag}/_count")["count"]
        if documents != len(lines) - len(broken) or counts["dead"] != len(broken):
            sys.exit(f"retrieval.py: {len(lines)} references became {documents} documents and {counts['dead']:.0f} "
                     f"dead letters")

    def reference(self, vendor, name):
        return json.dumps({"id": f"{vendor}/{name}", "url": f"{self.base}/{vendor}/{name}", "collection": vendor,
                           "metadata": {"name": name}})

    def drained(self, published):
        """Waits until every reference has its final outcome; the worker's counters tell."""
        deadline = time.monotonic() + 60 + 6 * published
        while time.monotonic() < deadline:
            counts = self.outcomes()
            if counts["indexed"] + counts["dead"] >= published:
                return counts
            time.sleep(0.5)
        sys.exit(f"retrieval.py: not drained in time: {self.outcomes()}")

    def outcomes(self):
        text = urllib.request.urlopen(f"http://{self.admin}/metrics").read().decode()
        pairs = re.findall(r'^imgdex_messages_total\{outcome="(\w+)"\} (\S+)$', text, re.MULTILINE)
        return collections.defaultdict(float, {outcome: float(value) for outcome, value in pairs})

    def search(self, names, mode):
        """The share of queries whose namesake is among the first 1, 5 and 10 hits."""
        places = []
        for name in names:
            out = self.imgdex("search", "--store", self.store, "--model", self.model, "--mode", mode, "-k", "10",
                              "--collection", self.args.stored_vendor, "--output", "ndjson",
                              "--id", f"{self.args.query_vendor}/{name}")
            hits = [json.loads(line)["metadata"]["name"] for line in out.splitlines()]
            places.append(hits.index(name) + 1 if name in hits else None)
        return {n: sum(1 for place in places if place and place <= n) / len(places) for n in PLACES}

    def refresh(self):
        self.http("POST", f"/{self.tag}/_refresh")

    def drop(self):
        for index in self.http("GET", f"/{self.tag}/_alias"):
            self.http("DELETE", f"/{index}")

    def http(self, method, path):
        request = urllib.request.Request(self.args.es + path, method=method)
        return json.loads(urllib.request.urlopen(request).read())


class Worker:
    """The worker as a child process; ready when its admin address answers, drained by SIGTERM."""

    def __init__(self, run):
        self.run = run

    def __enter__(self):
        run = self.run
        command = [run.args.binary, "worker", "--amqp", run.args.amqp, "--queue", run.tag, "--store", run.store,
                   "--model", run.model, "--admin-listen", "127.0.0.1:0", "--allow-net", "127.0.0.0/8",
                   "--allow-port", run.base.rsplit(":", 1)[1], "--retry-delays", "1,2", "--log", "info"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"})
        said = []
        for line in self.process.stderr:
            said.append(line)
            found = re.search(r"listening.*?(127\.0\.0\.1:\d+)", line)
            if found:
                run.admin = found.group(1)
                break
        else:
            sys.exit(f"retrieval.py: the worker ended with {self.process.wait()}: {''.join(said)}")
        # Keep reading, or the worker would block on a full pipe.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def __exit__(self, *_):
        self.process.terminate()
        if self.process.wait(timeout=60) != 0:
            sys.exit(f"retrieval.py: the worker ended with {self.process.returncode}")


def row(model, mode, shares):
    return f"{model:<12} {mode:<7} " + "  ".join(f"in {n}: {shares[n]:.3f}" for n in PLACES)


if __name__ == "__main__":
    main()
