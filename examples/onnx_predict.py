"""Picture and texts -> probabilities, from a folder of `soho export onnx`, with neither torch nor transformers.

Needs onnxruntime, tokenizers, numpy and Pillow.

    python examples/onnx_predict.py FOLDER PICTURE TEXT [TEXT ...]            # NLVR2: FOLDER LEFT RIGHT TEXT ...

Prints the three most probable labels of every text: match or no match, answers, true or false, or what the picture
entails. Transparent pictures and 16-bit grey ones are read as Pillow converts them, which differs from `soho predict`.
"""

import json
import sys
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from PIL import Image, ImageOps
from tokenizers import Tokenizer


def predict(folder, pictures, texts, model="model.onnx"):
    """Return one dictionary a text, label -> probability; `pictures` are one path, or two for NLVR2."""
    about, settings = (
        json.loads(Path(folder, name).read_text("utf-8")) for name in ("soho_onnx.json", "preprocessing.json")
    )
    rows = Tokenizer.from_file(f"{folder}/tokenizer.json").encode_batch(texts)
    feeds = {"pair_image_index": np.zeros(len(rows), np.int64)}
    feeds["input_ids"] = np.array([row.ids for row in rows], np.int64)
    feeds["attention_mask"] = np.array([row.attention_mask for row in rows], np.int64)
    for suffix, path in zip(("", "_2"), pictures):
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        scale = min(settings["longer_edge"] / max(image.size), settings["shorter_edge"] / min(image.size))
        if settings["do_resize"]:
            image = image.resize([max(1, int(edge * scale + 0.5)) for edge in image.size], settings["resample"])
        pixels = ((np.array(image) / 255 - settings["image_mean"]) / settings["image_std"]).transpose(2, 0, 1)
        step, least = settings["size_divisor"], settings["smallest_padded_edge"]
        padding = [(0, -(-max(edge, least) // step) * step - edge) for edge in pixels.shape[1:]]
        feeds[f"pixel_values{suffix}"] = np.pad(pixels, [(0, 0), *padding])[None].astype(np.float32)
        feeds[f"pixel_mask{suffix}"] = np.pad(np.ones(pixels.shape[1:], bool), padding)[None]
    (probabilities,) = InferenceSession(f"{folder}/{model}").run(["probabilities"], feeds)
    return [dict(zip(about["labels"], row.tolist())) for row in probabilities]


if __name__ == "__main__":
    folder, *rest = sys.argv[1:]
    count = json.loads(Path(folder, "soho_onnx.json").read_text("utf-8"))["pictures"]
    for text, shares in zip(rest[count:], predict(folder, rest[:count], rest[count:])):
        print(text)
        for label in sorted(shares, key=shares.get, reverse=True)[:3]:
            print(f"  {shares[label]:.6f}  {label}")
