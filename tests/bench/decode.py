#!/usr/bin/env python3
"""CPU time to decode one image and sample it for the network: in the worker's processes, on threads, and in Pillow.

The photographs are those of `make demo`, cut to 500 x 375.
"""

import os
import pathlib
import subprocess
import time

from PIL import Image, ImageOps

ROUNDS = 3
SIZE = (500, 375)
PILLOW_IMAGES = 100


def main():
    folder = pathlib.Path(os.environ["IMGDEX_BENCH_TMP"])
    photos = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "imgdex" / "photos"
    subprocess.run(["tests/images/photos.sh", photos], check=True)
    photo = Image.open(photos / "rocket.jpg").convert("RGB")
    small = ImageOps.fit(photo, SIZE)
    small.save(folder / "photo.jpg", quality=88)
    small.save(folder / "progressive.jpg", quality=88, progressive=True)
    small.save(folder / "photo.png")
    small.save(folder / "photo.webp", quality=88)
    files = [folder / name for name in ("photo.jpg", "progressive.jpg", "photo.png", "photo.webp")]

    subprocess.run(["cargo", "build", "--release", "--locked", "--example", "decode"], check=True)
    program = pathlib.Path(os.environ["IMGDEX_BIN"]).parent / "examples" / "decode"
    print(f"CPU-ms an image, {SIZE[0]} x {SIZE[1]} pixels, the least of {ROUNDS} rounds")
    print(f"{'':<18}{'processes':>12}{'threads':>12}{'Pillow':>12}")
    columns = {how: ours(program, how, files) for how in ("processes", "threads")}
    columns["Pillow"] = {file.name: min(pillow(file) for _ in range(ROUNDS)) for file in files}
    for file in files:
        print(f"{file.name:<18}" + "".join(f"{column[file.name]:>12.2f}" for column in columns.values()))


def ours(program, how, files):
    least = {}
    for _ in range(ROUNDS):
        for line in subprocess.check_output([program, how, *files], text=True).splitlines():
            path, figure = line.split("\t")
            name = pathlib.Path(path).name
            least[name] = min(least.get(name, float("inf")), float(figure))
    return least


def pillow(file):
    before = time.process_time()
    for _ in range(PILLOW_IMAGES):
        ImageOps.exif_transpose(Image.open(file)).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    return (time.process_time() - before) * 1000 / PILLOW_IMAGES


main()
