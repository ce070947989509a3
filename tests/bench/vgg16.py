#!/usr/bin/env python3
"""Features per second beside other inference engines on CPUs: the same weights, the same pixels, as many threads.

Every engine runs in a process of its own, one after the other, several rounds of all of them; the best median of the rounds
counts, for batches of one and of eight. Errors are the largest difference of a normalised feature from onnxruntime's, as a part
of the largest feature, over the fixtures' pixels. An engine that is not installed is named and left out. PyTorch is taken where
it is there; its package brings gigabytes, so the requirements do not list it.

The plot goes to VGG16_SVG (target/vgg16.svg). VGG16_ROUNDS (3), VGG16_RUNS (10) and VGG16_THREADS (all) set the effort.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROUNDS, RUNS = int(os.environ.get("VGG16_ROUNDS", 3)), int(os.environ.get("VGG16_RUNS", 10))
THREADS = int(os.environ.get("VGG16_THREADS", len(os.sched_getaffinity(0))))
BATCHES = (1, 8)
MEANS = (103.939, 116.779, 123.68)
BLOCKS = (2, 2, 3, 3, 3)
# What the others are measured by.
NEEDED = ("imgdex", "onnxruntime")
ENGINES = ["imgdex", "imgdex avx2", "imgdex portable", "candle", "onnxruntime", "openvino", "ncnn", "mnn", "torch"]


def main():
    work = Path(os.environ["IMGDEX_BENCH_TMP"])
    weights = model_folder() / "vgg16-notop.safetensors"
    save_onnx(weights, work / "vgg16.onnx")
    images = sorted((ROOT / "tests/fixtures/expected").glob("*.vgg16.png"))
    save_pixels(images, work / "images.npy")
    results, missing = {}, {}
    for _ in range(ROUNDS):
        for engine in ENGINES:
            if engine in missing:
                continue
            command = [sys.executable, __file__, engine, str(work)]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode:
                missing[engine] = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"exit {run.returncode}"
                if engine in NEEDED:
                    sys.exit(f"vgg16: {engine}: {missing[engine]}")
                continue
            results.setdefault(engine, []).append(json.loads(run.stdout.splitlines()[-1]))
    report(results, missing)


def model_folder():
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(os.environ.get("IMGDEX_MODEL_DIR") or Path(data) / "imgdex")


def report(results, missing):
    reference = results["onnxruntime"][0]["features"]
    rows = []
    for engine, rounds in results.items():
        times = [min(one["ms"][i] for one in rounds) for i in range(len(BATCHES))]
        rows.append((engine, times, error(rounds[0]["features"], reference)))
    ours = rows[0][1]
    print(f"\nVGG16, 224 x 224 to 512 features, float32, {THREADS} threads, {cpu()}; ms per image, best median of {ROUNDS} rounds")
    print(f"{'engine':<18}{'batch 1':>10}{'ratio':>8}{'batch 8':>10}{'ratio':>8}{'error':>10}")
    for engine, times, worst in rows:
        cells = "".join(f"{ms:>10.1f}{ms / base:>8.2f}" for ms, base in zip(times, ours))
        print(f"{engine:<18}{cells}{worst:>10.1e}")
    for engine, reason in missing.items():
        print(f"{engine:<18} left out: {reason}")
    svg = Path(os.environ.get("VGG16_SVG", ROOT / "target/vgg16.svg"))
    svg.parent.mkdir(exist_ok=True)
    svg.write_text(plot(rows))
    print(f"plot: {svg}")


def cpu():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def error(features, reference):
    pairs = [(a, b) for x, y in zip(features, reference) for a, b in zip(x, y)]
    return max(abs(a - b) for a, b in pairs) / max(b for _, b in pairs)


def plot(rows):
    """Horizontal bars, one for each batch size of each engine, shortest first."""
    width, left, height = 720, 130, 18
    rows = sorted(rows, key=lambda row: row[1][1])
    longest = max(max(times) for _, times, _ in rows)
    colours = ("#7aa6c2", "#1f5f8b")
    parts, y = [], 30
    for engine, times, _ in rows:
        parts.append(f'<text x="{left - 8}" y="{y + height + 4}" text-anchor="end">{engine}</text>')
        for ms, colour in zip(times, colours):
            bar = max(1, ms / longest * (width - left - 60))
            parts.append(f'<rect x="{left}" y="{y}" width="{bar:.1f}" height="{height - 2}" fill="{colour}"/>')
            parts.append(f'<text x="{left + bar + 5:.1f}" y="{y + height - 5}">{ms:.0f}</text>')
            y += height
        y += 10
    title = f'<text x="{left}" y="18">ms per image, {THREADS} threads; light: one image at a time, dark: eight</text>'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y}" font-family="sans-serif" font-size="13">'
            f'<rect width="100%" height="100%" fill="white"/>{title}{"".join(parts)}</svg>\n')


# Making the model and the pixels.

def save_onnx(weights, path):
    import numpy
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tensors = read_safetensors(weights, numpy)
    nodes, constants, last = [], [], "input"
    for block, count in enumerate(BLOCKS, 1):
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            for part in ("weight", "bias"):
                constants.append(numpy_helper.from_array(tensors[f"{name}.{part}"], f"{name}.{part}"))
            nodes.append(helper.make_node("Conv", [last, f"{name}.weight", f"{name}.bias"], [name], pads=[1] * 4, kernel_shape=[3, 3]))
            last = f"{name}.relu"
            nodes.append(helper.make_node("Relu", [name], [last]))
        nodes.append(helper.make_node("MaxPool", [last], [f"pool{block}"], kernel_shape=[2, 2], strides=[2, 2]))
        last = f"pool{block}"
    nodes += [helper.make_node("GlobalMaxPool", [last], ["maxima"]), helper.make_node("Flatten", ["maxima"], ["features"])]
    images = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 224, 224])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 512])
    graph = helper.make_graph(nodes, "vgg16", [images], [features], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)


def read_safetensors(path, numpy):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        begin, end = entry["data_offsets"]
        tensors[name] = numpy.frombuffer(data[start + begin:start + end], "<f4").reshape(entry["shape"]).copy()
    return tensors


def save_pixels(paths, target):
    import numpy
    from PIL import Image

    pixels = [numpy.asarray(Image.open(path).convert("RGB"), dtype=numpy.float32)[:, :, ::-1] for path in paths]
    numpy.save(target, numpy.ascontiguousarray((numpy.stack(pixels) - numpy.float32(MEANS)).transpose(0, 3, 1, 2)))


# One engine, in a process of its own.

def engine(name, work):
    import numpy

    images = numpy.load(work / "images.npy")
    if name == "candle" or name.startswith("imgdex"):
        return imgdex(name)
    prepare = {"onnxruntime": onnxruntime, "openvino": openvino, "ncnn": ncnn, "mnn": mnn, "torch": torch}[name]
    times = []
    for batch in BATCHES:
        run = prepare(work, batch)
        # As many images as the largest batch, whatever was given.
        some = numpy.ascontiguousarray(images[:batch])
        run(some)
        taken = []
        for _ in range(RUNS):
            start = time.perf_counter()
            run(some)
            taken.append(time.perf_counter() - start)
        times.append(statistics.median(taken) * 1000 / batch)
    run = prepare(work, 1)
    features = numpy.concatenate([numpy.array(run(images[i:i + 1])).reshape(1, -1) for i in range(len(images))])
    features /= numpy.linalg.norm(features, axis=1, keepdims=True)
    return {"ms": times, "features": features.tolist()}


def imgdex(name):
    kernel = {"imgdex": "auto", "candle": "candle"}.get(name) or name.split()[1]
    options = ["--kernel", kernel, "--threads", str(THREADS), "--model", "vgg16"]
    bench = [os.environ["IMGDEX_BIN"], "bench", "--output", "json", "--runs", str(RUNS), *options]
    measured = json.loads(subprocess.check_output(bench))
    images = sorted(map(str, (ROOT / "tests/fixtures/expected").glob("*.vgg16.png")))
    lines = subprocess.check_output([os.environ["IMGDEX_BIN"], "embed", *options, *images], text=True).splitlines()
    found = {line["source"]: line["embedding"] for line in map(json.loads, lines)}
    return {"ms": [measured["batch1_ms"], measured["batch8_ms"]], "features": [found[image] for image in images]}


def onnxruntime(work, _):
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = runtime.InferenceSession(str(work / "vgg16.onnx"), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"input": images})[0]


def openvino(work, batch):
    import openvino as runtime

    core = runtime.Core()
    model = core.read_model(work / "vgg16.onnx")
    model.reshape([batch, 3, 224, 224])
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
    compiled = core.compile_model(model, "CPU", config)
    return lambda images: compiled(images)[0]


def mnn(work, batch):
    import MNN.expr
    import MNN.nn

    converted = work / "vgg16.mnn"
    if not converted.exists():
        converter = Path(sys.executable).with_name("mnnconvert")
        subprocess.run([converter, "-f", "ONNX", "--modelFile", work / "vgg16.onnx", "--MNNModel", converted, "--bizCode", "x"],
                       stdout=subprocess.DEVNULL, check=True)
    runtime = MNN.nn.create_runtime_manager(({"precision": "high", "backend": "CPU", "numThread": THREADS},))
    network = MNN.nn.load_module_from_file(str(converted), ["input"], ["features"], runtime_manager=runtime)

    def run(images):
        return network.forward(MNN.expr.const(images, list(images.shape), MNN.expr.NCHW)).read()

    return run


def ncnn(work, _):
    import ncnn as runtime
    import numpy

    graph, constants = work / "vgg16.param", work / "vgg16.bin"
    if not constants.exists():
        save_ncnn(graph, constants, numpy)
    network = runtime.Net()
    network.opt.num_threads = THREADS
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(network.opt, option, False)
    network.load_param(str(graph))
    network.load_model(str(constants))

    def one(image):
        extractor = network.create_extractor()
        extractor.input("input", runtime.Mat(image))
        return numpy.array(extractor.extract("features")[1])

    return lambda images: [one(image) for image in images]


def save_ncnn(graph, constants, numpy):
    tensors = read_safetensors(model_folder() / "vgg16-notop.safetensors", numpy)
    lines, data, last = ["Input input 0 1 input"], b"", "input"
    for block, count in enumerate(BLOCKS, 1):
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
            # Outputs, kernel, padding, with a bias, weights, followed by a ReLU.
            lines.append(f"Convolution {name} 1 1 {last} {name} 0={len(bias)} 1=3 4=1 5=1 6={weight.size} 9=1")
            data += bytes(4) + weight.tobytes() + bias.tobytes()
            last = name
        lines.append(f"Pooling pool{block} 1 1 {last} pool{block} 0=0 1=2 2=2")
        last = f"pool{block}"
    lines.append(f"Pooling features 1 1 {last} features 0=0 4=1")
    graph.write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines]) + "\n")
    constants.write_bytes(data)


def torch(work, _):
    import numpy
    import torch as runtime

    runtime.set_num_threads(THREADS)
    tensors = read_safetensors(model_folder() / "vgg16-notop.safetensors", numpy)
    layers = []
    for block, count in enumerate(BLOCKS, 1):
        for number in range(1, count + 1):
            name = f"block{block}_conv{number}"
            weight, bias = (runtime.from_numpy(tensors[f"{name}.{part}"]) for part in ("weight", "bias"))
            layer = runtime.nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            layer.weight.data, layer.bias.data = weight, bias
            layers += [layer, runtime.nn.ReLU(inplace=True)]
        layers.append(runtime.nn.MaxPool2d(2))
    network = runtime.nn.Sequential(*layers).eval()

    def run(images):
        with runtime.inference_mode():
            return network(runtime.from_numpy(images)).amax((2, 3)).numpy()

    return run


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(engine(sys.argv[1], Path(sys.argv[2]))))
    else:
        main()
