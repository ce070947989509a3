#!/usr/bin/env python3
"""One query against all vectors: imgdex's embedded store beside numpy and faiss, with as many threads.

scan_peers.py EXAMPLE COUNT runs the example scan_bench, which times `Store::search` (the check for changes, the ten best
hits with their documents, all of it), then the peers on vectors alone, each with the choice of its ten best. GB/s is the
size of the vectors over the median time; the share is of the bandwidth at which plain code on all threads reads memory.
What the last-level cache keeps of the vectors from one run to the next comes on top, for all alike, so that the share can pass
100 %.
"""

import json
import os
import statistics
import subprocess
import sys
import time

DIMS, RUNS, K = 512, 20, 10


def main():
    example, count = sys.argv[1], int(sys.argv[2])
    ours = json.loads(subprocess.check_output([example, str(count)]))
    # Read when the libraries are loaded.
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(ours["threads"])
    rows = [("imgdex", mode, ms) for mode, ms in ours["search_ms"].items()] + list(peers(count))

    size = count * DIMS * 4
    print(f"\n{count} vectors of {DIMS} float32 values ({size / 1e6:.0f} MB), {ours['threads']} threads, median of {RUNS}")
    print(f"memory: {ours['gb_per_s']:.1f} GB/s read; imgdex: written in {ours['write_s']:.1f} s, "
          f"first search with loading {ours['first_search_s']:.2f} s")
    print(f"{'peer':<10}{'mode':<10}{'ms':>10}{'GB/s':>10}{'of memory':>12}")
    for peer, mode, ms in rows:
        rate = size / ms / 1e6
        print(f"{peer:<10}{mode:<10}{ms:>10.2f}{rate:>10.1f}{rate / ours['gb_per_s']:>12.0%}")


def peers(count):
    import faiss
    import numpy

    rng = numpy.random.default_rng(7)
    vectors = rng.random((count, DIMS), dtype=numpy.float32)
    vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[count // 2].copy()
    numpy_modes = {
        "dot": lambda: best(numpy, -(vectors @ query)),
        "l1": lambda: best(numpy, numpy.abs(vectors - query).sum(axis=1)),
        "l2": lambda: best(numpy, numpy.square(vectors - query).sum(axis=1)),
    }
    for mode, run in numpy_modes.items():
        yield "numpy", mode, median(run)

    faiss.omp_set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    indices = {"dot": faiss.IndexFlatIP(DIMS), "l1": faiss.IndexFlat(DIMS, faiss.METRIC_L1), "l2": faiss.IndexFlatL2(DIMS)}
    for mode, index in indices.items():
        index.add(vectors)
        yield "faiss", mode, median(lambda index=index: index.search(query[None], K))
        index.reset()


def best(numpy, distances):
    nearest = numpy.argpartition(distances, K)[:K]
    return nearest[numpy.argsort(distances[nearest])]


def median(run):
    run()
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


if __name__ == "__main__":
    main()
