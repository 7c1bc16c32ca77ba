/**
 * The portable body of `ai.dbf::BinaryMatMul`, in standard operators.
 *
 * @module
 */
import { COLUMNS_PER_WORD, ROWS_PER_BLOCK } from "../layout.ts";
import type { FunctionAttribute, FunctionNode, OperatorFunction } from "./types.ts";

/** Domain of our operators. */
export const DBF_DOMAIN = "ai.dbf";
/** Version of {@linkcode DBF_DOMAIN} that models import. */
export const DBF_OPSET_VERSION = 1;
/** Operator set of the body's own nodes. */
const BODY_OPSET_VERSION = 21;

/**
 * `Y[..., N] = (X[..., K] · Bᵀ) ⊙ out_scale[N]` for `X` and `out_scale` of type float or float16 and `B` packed as
 * kernels/layout.ts says; attributes `K` and `N`. Runtimes without our library inline it; ONNX Runtime then folds
 * everything that depends on `B` alone into a dense `(K, N)` matrix of the type of `X` when it loads the model.
 *
 * @returns The function, to be written once into every model that calls it.
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { binaryMatMulFunction } from "./binary_matmul.ts";
 *
 * assertEquals(binaryMatMulFunction().inputs, ["X", "B", "out_scale"]);
 * ```
 */
export function binaryMatMulFunction(): OperatorFunction {
  const nodes: FunctionNode[] = [];
  const node = (
    type: string,
    inputs: readonly string[],
    output: string,
    attributes: Readonly<Record<string, FunctionAttribute>> = {},
  ): string => {
    nodes.push({ type, domain: "", inputs, outputs: [output], attributes });
    return output;
  };
  const ints = (name: string, values: readonly number[]) =>
    node("Constant", [], name, { value_ints: { ints: values } });
  const bytes = (name: string, values: readonly number[]) =>
    node("Constant", [], name, {
      value: { tensor: { dtype: "uint8", shape: [values.length], data: Uint8Array.from(values) } },
    });
  const attribute = (name: "K" | "N") =>
    node("Reshape", [
      node("Constant", [], `${name}_scalar`, { value_int: { ref: name, type: "int" } }),
      "one",
    ], name);

  ints("one", [1]);
  ints("zeros", [0, 0]);
  const sizes = node("Concat", [attribute("K"), attribute("N")], "sizes", { axis: { int: 0 } });
  // Bytes of one column octet: (N/16, K/32, 16, 4) → (K/32, 4, N/16, 16), so that the end is already transposed.
  const octets = node("Transpose", ["B"], "octets", { perm: { ints: [1, 3, 0, 2] } });
  // (K/32, 4, N/16, 16) → (K/8, 1, N'), N' = N padded to whole blocks
  const flat = node("Reshape", [
    node("Reshape", [octets, ints("merge_blocks", [0, 0, -1])], "merged"),
    node(
      "Concat",
      [
        ints("minus_one", [-1]),
        "one",
        node("Mul", [
          node("Shape", ["B"], "blocks", { start: { int: 0 }, end: { int: 1 } }),
          ints("rows_per_block", [ROWS_PER_BLOCK]),
        ], "padded_rows"),
      ],
      "flat_shape",
      { axis: { int: 0 } },
    ),
  ], "flat");
  // (K/8, 8, N'): bit j of every byte
  const masks = node("Reshape", [
    bytes("mask_values", Array.from({ length: 8 }, (_, bit) => 1 << bit)),
    ints("mask_shape", [1, 8, 1]),
  ], "masks");
  const isOne = node("Cast", [node("BitwiseAnd", [flat, masks], "masked")], "is_one", { to: { int: ONNX_BOOL } });
  const plane = node("Reshape", [
    isOne,
    node("Concat", ["minus_one", "padded_rows"], "plane_shape", { axis: { int: 0 } }),
  ], "plane");
  const cut = node("Slice", [plane, "zeros", sizes], "cut");
  // 1 → +1, 0 → −1, in float because CPUs have no float16 Where, then in the type of X
  const float = (name: string, value: number) => node("Constant", [], name, { value_float: { float: value } });
  const signs = node("CastLike", [
    node("Where", [cut, float("plus", 1), float("minus", -1)], "float_signs"),
    "out_scale",
  ], "signs");
  node("Mul", [node("MatMul", ["X", signs], "product"), "out_scale"], "Y");

  return {
    name: "BinaryMatMul",
    domain: DBF_DOMAIN,
    description:
      `Product with a matrix of signs, packed ${ROWS_PER_BLOCK} rows x ${COLUMNS_PER_WORD} columns at a time.`,
    inputs: ["X", "B", "out_scale"],
    outputs: ["Y"],
    attributes: ["K", "N"],
    nodes,
    opsets: [{ domain: "", version: BODY_OPSET_VERSION }],
  };
}

/** TensorProto.DataType.BOOL. */
const ONNX_BOOL = 9;
