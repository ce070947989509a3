#!/usr/bin/env python3
"""Documents per second into Elasticsearch: imgdex's bulk path beside parallel_bulk of the official Python client.

The same documents and the same bulks (500 documents, two requests at a time) into indices made by `imgdex mappings
apply`, in turns, on one server of 1 GB heap; CPU time is that of the client alone. Environment: see run.sh.
"""

import array
import json
import os
import pathlib
import random
import statistics
import subprocess
import time

from elasticsearch import Elasticsearch
from elasticsearch.helpers import parallel_bulk

COUNT, BATCH, REQUESTS, ROUNDS, DIMS = 20_000, 500, 2, 3, 512


def main():
    tmp = os.environ["IMGDEX_BENCH_TMP"]
    subprocess.run(["tests/services/elasticsearch.sh", "start", tmp], check=True, stdout=subprocess.DEVNULL)
    url = pathlib.Path(tmp, "url").read_text().strip()
    binary = os.environ["IMGDEX_BIN"]
    subprocess.run(["cargo", "build", "--release", "--locked", "--example", "bulk"], check=True)
    example = pathlib.Path(binary).parent / "examples" / "bulk"
    documents = make_documents()
    client = Elasticsearch(url, request_timeout=120)

    figures = {"imgdex": [], "parallel_bulk": []}
    for turn in range(ROUNDS + 1):
        for name in figures:
            alias = f"bench-{name.replace('_', '-')}-{turn}"
            subprocess.run([binary, "mappings", "apply", "--store", f"{url}/{alias}"], check=True, stdout=subprocess.DEVNULL)
            if name == "imgdex":
                figure = json.loads(subprocess.check_output([example, f"{url}/{alias}", str(COUNT)]))
            else:
                figure = peer(client, alias, documents)
            client.indices.refresh(index=alias)
            stored = client.count(index=alias)["count"]
            assert stored == COUNT, f"{name}: {stored} of {COUNT} documents"
            client.indices.delete(index=next(iter(client.indices.get_alias(name=alias))))
            if turn:  # the first one warms the server up
                figures[name].append(figure)

    medians = {name: {key: statistics.median(one[key] for one in all_) for key in all_[0]} for name, all_ in figures.items()}
    print(f"\n{COUNT} documents, {BATCH} a request, {REQUESTS} requests at a time, median of {ROUNDS}")
    print(f"{'client':<16}{'documents/s':>14}{'client CPU ms/document':>26}")
    for name, figure in medians.items():
        print(f"{name:<16}{figure['docs_per_s']:>14.0f}{figure['cpu_ms_per_doc']:>26.4f}")
    ours, theirs = medians["imgdex"], medians["parallel_bulk"]
    print(f"imgdex: {ours['docs_per_s'] / theirs['docs_per_s']:.2f} times the documents per second "
          f"at {ours['cpu_ms_per_doc'] / theirs['cpu_ms_per_doc']:.1%} of the CPU")


def make_documents():
    rng = random.Random(7)
    documents = []
    for number in range(COUNT):
        values = [rng.random() for _ in range(DIMS)]
        norm = sum(value * value for value in values) ** 0.5
        # float32, as a program has features
        vector = array.array("f", (value / norm for value in values))
        documents.append({
            "id": f"{number:08}", "url": f"https://example.org/images/{number}.jpg", "collection": "default", "version": 1,
            "width": 500, "height": 375, "bytes": 40_000, "format": "jpeg", "content_sha256": "0" * 64, "indexed_at": 0,
            "metadata": {}, "image_vector": vector})
    return documents


def peer(client, alias, documents):
    def actions():
        for document in documents:
            yield {"_index": alias, "_id": document["id"], "_source": document | {"image_vector": document["image_vector"].tolist()}}

    started, cpu = time.perf_counter(), time.process_time()
    for ok, item in parallel_bulk(client, actions(), thread_count=REQUESTS, chunk_size=BATCH):
        assert ok, item
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"docs_per_s": COUNT / seconds, "cpu_ms_per_doc": cpu * 1000 / COUNT}


if __name__ == "__main__":
    main()
