#!/usr/bin/env python3
"""Draws search.jpg: the query of `make demo` and its five best hits, as `imgdex search` ranks them.

    tests/images/photos.sh PHOTOS && docs/images/make_search.py --photos PHOTOS

needs Pillow and imgdex with its weights (`--imgdex`, else `imgdex` in PATH). Only photographs in the public domain or under CC0
are stored, because their thumbnails become part of this repository; their names and sources are in CREDITS.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

from PIL import Image, ImageDraw, ImageFont

ROOT = pathlib.Path(__file__).resolve().parents[2]
# From the notes of scikit-image, which carries the photographs (skimage/data/_fetchers.py).
CREDITS = {
    "astronaut.png": "NASA, public domain",
    "camera.png": "Lav Varshney, CC0",
    "chelsea.png": "Stefan van der Walt, CC0",
    "clock_motion.png": "Stefan van der Walt, public domain",
    "coffee.png": "Rachel Michetti, CC0",
    "hubble_deep_field.jpg": "NASA, public domain",
    "retina.jpg": "CC0",
    "rocket.jpg": "SpaceX, public domain",
}
HITS = 5
TILE = 168
GAP = 14
TEXT = 44
# Readable on light and on dark pages.
BACKGROUND, CARD, INK, GREY, ACCENT = "#f6f8fa", "#ffffff", "#1f2328", "#59636e", "#1a7f37"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=pathlib.Path, required=True, help="folder that tests/images/photos.sh filled")
    parser.add_argument("--imgdex", default="imgdex", help="the program")
    parser.add_argument("--query", type=pathlib.Path, default=ROOT / "tests/demo/query.jpg")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/images/search.jpg")
    return parser.parse_args()


def search(program, photos, query):
    """The hits, best first, as the program prints them."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite:{folder}/photos.db"
        stored = [str(photos / name) for name in CREDITS]
        subprocess.run([program, "index", "--store", store, *stored], check=True, stdout=subprocess.DEVNULL)
        command = [program, "search", "--store", store, "--output", "ndjson", "-k", str(HITS), str(query)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def font(size, bold=False):
    try:
        return ImageFont.truetype("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def square(path):
    """The middle of the picture, so that all tiles have one size."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((TILE, TILE), Image.Resampling.LANCZOS)


def main():
    args = arguments()
    hits = search(args.imgdex, args.photos, args.query)
    tiles = [(args.query, "query", args.query.name, GREY)]
    for hit in hits:
        name = pathlib.PurePosixPath(hit["url"]).name
        tiles.append((args.photos / name, f"{hit['similarity']:.3f}", name, ACCENT if hit["rank"] == 1 else INK))

    # A wider gap sets the query apart.
    apart = 3 * GAP
    width = len(tiles) * TILE + (len(tiles) - 2) * GAP + apart + 2 * GAP
    sheet = Image.new("RGB", (width, TILE + TEXT + 2 * GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    x = GAP
    for number, (path, title, name, colour) in enumerate(tiles):
        draw.rectangle((x - 1, GAP - 1, x + TILE, GAP + TILE + TEXT), fill=CARD, outline="#d1d9e0")
        sheet.paste(square(path), (x, GAP))
        draw.text((x + TILE / 2, GAP + TILE + 14), title, fill=colour, font=font(15, bold=True), anchor="mm")
        draw.text((x + TILE / 2, GAP + TILE + 33), name, fill=GREY, font=font(12), anchor="mm")
        if number == 0:
            middle = x + TILE + apart / 2
            draw.polygon([(middle - 6, GAP + TILE / 2 - 10), (middle - 6, GAP + TILE / 2 + 10), (middle + 9, GAP + TILE / 2)], fill=GREY)
        x += TILE + (apart if number == 0 else GAP)
    sheet.save(args.out, quality=88, optimize=True, progressive=True)
    print(f"{args.out}: {args.out.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
