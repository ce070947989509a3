#!/usr/bin/env python3
"""From the queue to acknowledged documents in Elasticsearch, with photographs of 500 x 375 pixels: what it costs beside the network.

A worker as a user runs it takes FLOW_COUNT (2000) references from a full queue and fetches them over loopback. CPU time is the
worker's own, by the threads that spend it. RabbitMQ, Elasticsearch and the image server share the machine, so documents per
second say less than that. What the network takes alone is measured before and after, for machines drift.
"""

import json
import os
import pathlib
import re
import subprocess
import time
import types
import urllib.request

import retrieval
from PIL import Image, ImageOps

COUNT, WARM_UP, SIZE = int(os.environ.get("FLOW_COUNT", 2000)), 200, (500, 375)
TICK = os.sysconf("SC_CLK_TCK")
# The worker's threads by the beginnings of their names. Those that decode are not among them: each lives for one image.
THREADS = {
    "compute-": "network",
    "model": "batches and the network's input",
    "tokio": "fetching, documents, bulks",
    "lapin": "broker's socket",
    "imgdex": "main thread",
}


def main():
    tmp = pathlib.Path(os.environ["IMGDEX_BENCH_TMP"])
    binary = os.environ["IMGDEX_BIN"]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    subprocess.run(["tests/images/photos.sh", cache / "imgdex/photos"], check=True)
    for service in ("rabbitmq", "elasticsearch"):
        subprocess.run([f"tests/services/{service}.sh", "start", tmp / service], check=True, stdout=subprocess.DEVNULL)
    photos = make_photos(cache / "imgdex/photos", tmp / "photos")
    alone = [network_alone(binary)]
    server = retrieval.serve(tmp / "photos")
    base = f"http://127.0.0.1:{server.server_address[1]}"
    url = {service: (tmp / service / "url").read_text().strip() for service in ("rabbitmq", "elasticsearch")}
    run = retrieval.Run(types.SimpleNamespace(binary=binary, amqp=url["rabbitmq"], es=url["elasticsearch"]), "vgg16", base)
    references = [json.dumps({"id": str(i), "url": f"{base}/{photos[i % len(photos)]}"}) for i in range(COUNT)]
    run.imgdex("publish", "--amqp", url["rabbitmq"], "--queue", run.tag, "-", stdin="\n".join(references) + "\n")
    worker = run.worker()
    with worker:
        before = sample(run, worker, WARM_UP)
        after = sample(run, worker, COUNT - WARM_UP)
    alone.append(network_alone(binary))
    report(before, after, alone)


def network_alone(binary):
    return json.loads(subprocess.check_output([binary, "bench", "--output", "json"]))


def make_photos(source, target):
    """The same photographs at one size; grey ones too, as they come."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        ImageOps.fit(Image.open(path).convert("RGB"), SIZE).save(target / f"{path.stem}.jpg", quality=88)
    return sorted(path.name for path in target.iterdir())


def sample(run, worker, documents):
    """Clocks and counters as soon as so many documents are acknowledged."""
    while True:
        # Asked in one request: the admin address is up before the model is warm.
        text = urllib.request.urlopen(f"http://{run.admin}/metrics").read().decode()
        indexed = value(text, r'imgdex_messages_total\{outcome="indexed"\}')
        if indexed >= documents:
            break
        time.sleep(0.05)
    stages = {stage: (value(text, rf'imgdex_stage_duration_seconds_sum\{{stage="{stage}"\}}'),
                      value(text, rf'imgdex_stage_duration_seconds_count\{{stage="{stage}"\}}'))
              for stage in ("fetch", "decode", "extract", "index")}
    process = pathlib.Path("/proc") / str(worker.process.pid)
    threads = dict.fromkeys(THREADS.values(), 0.0)
    for task in (process / "task").iterdir():
        try:
            name, spent = (task / "comm").read_text(), ticks(task / "stat") / TICK
        except OSError:  # It has ended.
            continue
        for beginning, what in THREADS.items():
            if name.startswith(beginning):
                threads[what] += spent
    # The worker with the processes in which it decodes images.
    processes = [process, *children(process)]
    return {"time": time.monotonic(), "indexed": indexed, "cpu": sum(ticks(one / "stat") for one in processes) / TICK,
            "threads": threads, "stages": stages, "machine": machine(), "memory": sum(map(memory, processes))}


def children(process):
    pids = "".join((task / "children").read_text() for task in (process / "task").iterdir())
    return [process.parent / pid for pid in pids.split()]


def value(text, pattern):
    found = re.search(rf"^{pattern} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def ticks(stat):
    # The name, in parentheses, may hold anything.
    fields = stat.read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def machine():
    """Seconds that all CPUs were busy."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields) - fields[3] - fields[4]) / TICK


def memory(process):
    found = re.search(r"^VmRSS:\s+(\d+) kB$", (process / "status").read_text(), re.MULTILINE)
    return int(found.group(1)) * 1.024e-3


def report(before, after, alone):
    documents = after["indexed"] - before["indexed"]
    seconds = after["time"] - before["time"]
    milliseconds = lambda start, end: (end - start) * 1000 / documents
    cpu = milliseconds(before["cpu"], after["cpu"])
    threads = {what: milliseconds(before["threads"][what], after["threads"][what]) for what in THREADS.values()}
    network = threads.pop("network")
    services = milliseconds(before["machine"], after["machine"]) - cpu
    batch8 = sum(run["batch8_ms"] for run in alone) / len(alone)
    extraction = batch8 * alone[0]["threads"]
    print(f"\n{documents:.0f} documents in {seconds:.1f} s: {documents / seconds:.1f} a second, {after['memory']:.0f} MB resident")
    print(f"kernel {alone[0]['kernel']}, {alone[0]['threads']} threads; the network alone, in batches of eight: "
          f"{1000 / batch8:.1f} a second, {extraction:.1f} CPU-ms an image")
    row = lambda what, value: print(f"{what:<52}{value:>8.2f}")
    print("CPU-ms per document")
    row("  the worker: network", network)
    row("  the worker: all the rest", cpu - network)
    for what, value in threads.items():
        row(f"    {what}", value)
    row("    decoding and sampling", cpu - network - sum(threads.values()))
    row("  RabbitMQ, Elasticsearch, image server", services)
    print(f"the worker alone on the machine: {extraction / cpu:.1%} of the network's rate")
    print("stage, wall time with waiting, ms per document: " + ", ".join(
        f"{stage} {(total - before['stages'][stage][0]) * 1000 / max(1, count - before['stages'][stage][1]):.1f}"
        for stage, (total, count) in after["stages"].items()))


if __name__ == "__main__":
    main()
