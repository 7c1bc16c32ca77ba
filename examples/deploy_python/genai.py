"""Generates with onnxruntime-genai from a model that `dbf export` or `dbf compress` wrote, with dbf's native kernels.

  deno task kernels                                  builds kernels/native/build/libdbf_ops.so
  pip install onnxruntime-genai
  python genai.py DIR --ids 39,295,310 --max-tokens 16

onnxruntime-genai reads `genai_config.json`; this writes one beside links to DIR's files in a temporary directory, with dbf's
operator library as `custom_ops_library`. Without a library (--portable) the same file runs through its portable body.
"""

import argparse
import json
import os
import tempfile

import onnxruntime_genai as og

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARY = os.path.join(HERE, "..", "..", "kernels", "native", "build", "libdbf_ops.so")


def genai_config(directory, library, length):
    """What onnxruntime-genai wants to know of the decoder, from the exported config.json."""
    with open(os.path.join(directory, "config.json")) as file:
        config = json.load(file)
    heads = config["num_attention_heads"]
    session = {"log_id": "dbf", "provider_options": []}
    if library:
        session["custom_ops_library"] = os.path.abspath(library)
    return {
        "model": {
            "type": config["model_type"],
            "bos_token_id": config.get("bos_token_id") or 0,
            "eos_token_id": config["eos_token_id"],
            "pad_token_id": config.get("pad_token_id") or 0,
            "context_length": config["max_position_embeddings"],
            "vocab_size": config["vocab_size"],
            "decoder": {
                "session_options": session,
                "filename": "model.onnx",
                "head_size": config.get("head_dim") or config["hidden_size"] // heads,
                "hidden_size": config["hidden_size"],
                "num_attention_heads": heads,
                "num_hidden_layers": config["num_hidden_layers"],
                "num_key_value_heads": config.get("num_key_value_heads") or heads,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        # The exported graph appends to its cache: past and present are different arrays.
        "search": {"do_sample": False, "max_length": length, "past_present_share_buffer": False},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="with model.onnx and config.json")
    parser.add_argument("--ids", required=True, help="token ids of the prompt, with commas")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--library", default=LIBRARY)
    parser.add_argument("--portable", action="store_true", help="without the operator library")
    arguments = parser.parse_args()
    ids = [int(each) for each in arguments.ids.split(",")]
    library = None if arguments.portable else arguments.library
    with tempfile.TemporaryDirectory() as directory:
        for name in os.listdir(arguments.directory):
            os.symlink(os.path.abspath(os.path.join(arguments.directory, name)), os.path.join(directory, name))
        with open(os.path.join(directory, "genai_config.json"), "w") as file:
            json.dump(genai_config(arguments.directory, library, len(ids) + arguments.max_tokens), file)
        model = og.Model(directory)
        params = og.GeneratorParams(model)
        generator = og.Generator(model, params)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        print(json.dumps([int(each) for each in generator.get_sequence(0)][len(ids):]))


if __name__ == "__main__":
    main()
