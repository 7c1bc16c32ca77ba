"""Calls dbf's operator library from Python's onnxruntime, without a model of dbf's: one `ai.dbf::BinaryMatMul` node.

  deno task kernels                                  builds kernels/native/build/libdbf_ops.so
  pip install onnxruntime onnx numpy
  python examples/deploy_python/custom_ops.py [--library PATH] [--accuracy exact|fast]

Shows how signs are packed, compares the operator with numpy, and that a wrong shape is an exception. Exit code 1 on a
difference that rounding does not explain.
"""

import argparse
import os

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARY = os.path.join(HERE, "..", "..", "kernels", "native", "build", "libdbf_ops.so")


def pack(signs):
    """Booleans (N, K), True is +1, as B: uint8 [ceil(N/16), ceil(K/32), 16, 4]."""
    n, k = signs.shape
    blocks, words = -(-n // 16), -(-k // 32)
    padded = np.zeros((blocks * 16, words * 32), np.uint8)
    padded[:n, :k] = signs
    octets = np.packbits(padded, axis=1, bitorder="little").reshape(blocks, 16, words, 4)
    return np.ascontiguousarray(octets.transpose(0, 2, 1, 3))


def model(n, k, packed, scale):
    """A model of one node; X has the element type of `scale`."""
    kind = helper.np_dtype_to_tensor_dtype(scale.dtype)
    node = helper.make_node("BinaryMatMul", ["X", "B", "out_scale"], ["Y"], domain="ai.dbf", N=n, K=k)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("X", kind, ["batch", "tokens", "features"])],
        [helper.make_tensor_value_info("Y", kind, ["batch", "tokens", n])],
        [
            helper.make_tensor("B", TensorProto.UINT8, packed.shape, packed.tobytes(), raw=True),
            helper.make_tensor("out_scale", kind, scale.shape, scale.tobytes(), raw=True),
        ],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("ai.dbf", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", default=LIBRARY)
    parser.add_argument("--accuracy", choices=["exact", "fast"], default="exact")
    arguments = parser.parse_args()

    options = ort.SessionOptions()
    options.register_custom_ops_library(arguments.library)
    options.add_session_config_entry("dbf.accuracy", arguments.accuracy)  # ONNX Runtime 1.24 and later; else DBF_ACCURACY

    random = np.random.default_rng(0)
    n, k = 1000, 777
    signs = random.random((n, k)) < 0.5
    failures = 0
    for dtype in (np.float32, np.float16):
        scale = random.standard_normal(n).astype(dtype)
        session = ort.InferenceSession(model(n, k, pack(signs), scale), options, providers=["CPUExecutionProvider"])
        for tokens in (0, 1, 5, 200):
            x = random.standard_normal((1, tokens, k)).astype(dtype)
            y = session.run(None, {"X": x})[0]
            expected = x.astype(np.float64) @ (2.0 * signs - 1).T * scale.astype(np.float64)
            worst = float(np.abs(y - expected).max() / np.abs(expected).max()) if tokens else 0.0
            limit = 0.02 if arguments.accuracy == "fast" else 1e-3 if dtype == np.float16 else 1e-6
            failures += worst > limit
            print(f"{dtype.__name__} {tokens:4d} tokens: difference {worst:.1e} of the largest value")
        try:
            session.run(None, {"X": np.zeros((1, 1, k + 1), dtype)})
            failures += 1
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            print("wrong shape:", str(error).split("Message: ")[-1])
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
