"""Runs a model that `dbf export` or `dbf compress` wrote, with nothing of dbf's: onnxruntime and numpy only.

  python run.py DIR --ids 39,295,310 --max-tokens 16     continues token ids greedily, with the key/value cache
  python run.py DIR --prompt "Once upon a time"          the same with text (needs the package `tokenizers`)
  python run.py DIR --golden golden.json                 compares logits with stored ones; exit code 1 above 1e-3
  --library libdbf_ops.so                                registers the native kernels; without it the portable body runs
"""

import argparse
import json
import os
import sys

import numpy as np
import onnxruntime as ort


class Decoder:
    """An exported decoder with its cache: feed token ids, get logits."""

    def __init__(self, directory, library=None, provider="CPUExecutionProvider"):
        options = ort.SessionOptions()
        if library:
            options.register_custom_ops_library(library)
        self.session = ort.InferenceSession(os.path.join(directory, "model.onnx"), options, providers=[provider])
        self.past = {i.name: i for i in self.session.get_inputs() if i.name.startswith("past_key_values.")}
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.reset()

    def reset(self):
        """Forgets the sequence."""
        self.length = 0
        self.cache = {}
        for name, info in self.past.items():
            _, heads, _, head_dim = info.shape
            dtype = np.float16 if info.type == "tensor(float16)" else np.float32
            self.cache[name] = np.zeros((1, heads, 0, head_dim), dtype)

    def append(self, ids):
        """Logits (1, len(ids), vocabulary) of new tokens."""
        ids = np.asarray(ids, np.int64).reshape(1, -1)
        total = self.length + ids.shape[1]
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(self.length, total, dtype=np.int64).reshape(1, -1),
            **self.cache,
        }
        results = dict(zip(self.outputs, self.session.run(self.outputs, feeds)))
        self.length = total
        self.cache = {name: results[name.replace("past_key_values", "present")] for name in self.past}
        return results["logits"]


def greedy(decoder, ids, count, stop):
    """Continues `ids` by the likeliest tokens."""
    found = []
    logits = decoder.append(ids)
    while len(found) < count:
        token = int(logits[0, -1].argmax())
        found.append(token)
        if token in stop:
            break
        if len(found) < count:
            logits = decoder.append([token])
    return found


def compare(decoder, path):
    """Largest difference from golden logits over their scale, for the first, middle and last position."""
    with open(path) as file:
        golden = json.load(file)
    count = len(golden["input_ids"])
    logits = decoder.append(golden["input_ids"])[0]
    worst = 0.0
    for place, at in (("first", 0), ("mid", count // 2), ("last", count - 1)):
        expected = np.asarray(golden["logits_" + place])
        worst = max(worst, float(np.abs(logits[at] - expected).max() / np.abs(expected).max()))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--ids")
    parser.add_argument("--prompt")
    parser.add_argument("--golden")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--library")
    parser.add_argument("--provider", default="CPUExecutionProvider")
    arguments = parser.parse_args()
    decoder = Decoder(arguments.directory, arguments.library, arguments.provider)
    if arguments.golden:
        worst = compare(decoder, arguments.golden)
        print(json.dumps({"onnxruntime": ort.__version__, "worstRelativeDifference": worst}))
        return 0 if worst < 1e-3 else 1
    stop = set()
    path = os.path.join(arguments.directory, "generation_config.json")
    if os.path.exists(path):
        with open(path) as file:
            eos = json.load(file).get("eos_token_id")
        stop = set(eos if isinstance(eos, list) else [] if eos is None else [eos])
    if arguments.ids:
        print(json.dumps(greedy(decoder, [int(each) for each in arguments.ids.split(",")], arguments.max_tokens, stop)))
    elif arguments.prompt:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(os.path.join(arguments.directory, "tokenizer.json"))
        ids = tokenizer.encode(arguments.prompt).ids
        print(tokenizer.decode(ids + greedy(decoder, ids, arguments.max_tokens, stop)))
    else:
        parser.error("say what to run: --ids, --prompt or --golden")
    return 0


if __name__ == "__main__":
    sys.exit(main())
