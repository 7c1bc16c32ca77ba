/**
 * Embedding and head in 16, 8 or 4 bits.
 *
 * @module
 */
import { denseSource, type DenseTensor, type DenseType } from "../../../pipeline/export/dense_stream.ts";
import { tableSources } from "../../../pipeline/export/table_stream.ts";
import { cast, gather } from "../../../pipeline/graph/ops.ts";
import type { ExternalSource, Graph, Value } from "../../../pipeline/graph/types.ts";
import { type TableBits, tableGroup } from "../../../pipeline/model/tables.ts";
import { untransposedProduct } from "./dense_layer.ts";
import { matMulNBits, MICROSOFT_DOMAIN } from "./nbits_layer.ts";

/** A table in an export. */
export interface Table {
  /**
   * Rows of the table.
   *
   * @param ids int64 `[batch, sequence]`.
   * @returns `[batch, sequence, cols]` of the export's type.
   */
  rows(ids: Value): Value;
  /**
   * `x·Wᵀ`.
   *
   * @param x `[batch, sequence, cols]` of the export's type.
   */
  product(x: Value): Value;
}

/** Half precision, cast where it is used; ONNX Runtime casts the weight of a product once, when it loads the model. */
function halfTable(g: Graph, tensor: DenseTensor, dtype: DenseType): Table {
  const weight = g.initializer(tensor.name, "float16", tensor.shape, denseSource(tensor, "float16"));
  return {
    rows: (ids) => cast(g, gather(g, weight, ids), dtype),
    product: (x) => untransposedProduct(g, x, cast(g, weight, dtype)),
  };
}

/** Codes: rows by GatherBlockQuantized, products by MatMulNBits. Both see the same bytes of the file, in shapes of their own. */
function codedTable(g: Graph, tensor: DenseTensor, bits: 8 | 4, dtype: DenseType): Table {
  const { name, shape: [rows, cols] } = tensor;
  const group = tableGroup(name, cols), groups = cols / group;
  const sources = tableSources(tensor, bits, group, dtype);
  const weight = (use: string, type: "uint8" | DenseType, shape: readonly number[], source: ExternalSource) =>
    g.initializer(`${name}.${use}`, type, shape, source);
  return {
    rows(ids) {
      const codes = weight("rows.codes", "uint8", [rows, cols * bits / 8], sources.codes);
      const scales = weight("rows.scales", dtype, [rows, groups], sources.scales);
      return g.node("GatherBlockQuantized", [codes, ids, scales], {
        bits,
        block_size: group,
        gather_axis: 0,
        quantize_axis: 1,
      }, { domain: MICROSOFT_DOMAIN, outputs: [{ dtype, shape: [...ids.shape, cols] }] })[0];
    },
    product(x) {
      const codes = weight("codes", "uint8", [rows, groups, group * bits / 8], sources.codes);
      const scales = weight("scales", dtype, [rows * groups], sources.scales);
      return matMulNBits(g, x, { codes, scales }, { N: rows, K: cols, bits, group });
    },
  };
}

/** Adds a table to a graph; its weights are added with their first use. */
export function tableOf(g: Graph, tensor: DenseTensor, bits: TableBits, dtype: DenseType): Table {
  return bits === 16 ? halfTable(g, tensor, dtype) : codedTable(g, tensor, bits, dtype);
}
