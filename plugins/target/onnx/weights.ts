/**
 * An artefact's tensors as the weights of a decoder graph: streams, nothing is read until the file is written.
 *
 * @module
 */
import type { ArtefactReader } from "../../../pipeline/artefact/types.ts";
import { denseSource } from "../../../pipeline/export/dense_stream.ts";
import { add, gather } from "../../../pipeline/graph/ops.ts";
import type { Graph, Value } from "../../../pipeline/graph/types.ts";
import type { DecoderWeights } from "../../../pipeline/model/decoder_graph.ts";
import { type TableBits, tableBits, type TableOptions } from "../../../pipeline/model/tables.ts";
import type { LinearDescription, ModelDescription } from "../../../pipeline/model/types.ts";
import { dbfLayer } from "./dbf_layer.ts";
import { denseLayer, denseTensor, untransposedProduct } from "./dense_layer.ts";
import type { LayerBuilder } from "./layer.ts";
import { nbitsLayer } from "./nbits_layer.ts";
import { signLayer } from "./sign_layer.ts";
import { type Table, tableOf } from "./table.ts";

/** Builders of the kinds of layers that this target knows. */
export const LAYER_BUILDERS: Readonly<Record<string, LayerBuilder>> = {
  dense: denseLayer,
  dbf: dbfLayer,
  nbits: nbitsLayer,
  sign: signLayer,
};

/**
 * Weights of a decoder from a source.
 *
 * @param builders Builders by kind of layer.
 * @param tables Bits of embedding and head.
 * @throws {RangeError} while the graph is built, when a tensor is missing or has another shape.
 * @throws {TypeError} while the graph is built, for a layer of an unknown kind.
 */
export function streamedWeights(
  source: ArtefactReader,
  model: ModelDescription,
  dtype: "float32" | "float16",
  builders: Readonly<Record<string, LayerBuilder>> = LAYER_BUILDERS,
  tables: TableOptions = {},
): DecoderWeights {
  const vectorOf = (g: Graph, name: string, length: number, type: "float32" | "float16") =>
    g.initializer(name, type, [length], denseSource(denseTensor(source, name, [length]), type));
  const layer = (g: Graph, linear: LinearDescription, x: Value): Value => {
    const entry = source.entries.get(linear.weight);
    if (entry === undefined) {
      throw new RangeError(`Cannot export ${source.directory}: it has no tensor "${linear.weight}"`);
    }
    const builder = Object.hasOwn(builders, entry.kind) ? builders[entry.kind] : undefined;
    if (builder === undefined) {
      throw new TypeError(
        `Cannot export "${linear.weight}" of kind ${entry.kind}: this target knows ${Object.keys(builders).join(", ")}`,
      );
    }
    const y = builder(g, { linear, entry, source, dtype }, x);
    return linear.bias === undefined ? y : add(g, y, vectorOf(g, linear.bias, linear.rows, dtype));
  };
  const { embedding, head, vocabularySize: rows, hiddenSize: cols } = model;
  const bits = tableBits(model, tables);
  const coded = (g: Graph, name: string, each: TableBits) =>
    tableOf(g, denseTensor(source, name, [rows, cols]), each, dtype);
  let table: Value | undefined, small: Table | undefined;
  return {
    linear: layer,
    vector: (g, name, length) => vectorOf(g, name, length, "float32"),
    embed(g, ids) {
      const embeddingBits = bits.get(embedding);
      if (embeddingBits !== undefined) {
        small = coded(g, embedding, embeddingBits);
        return small.rows(ids);
      }
      table = g.initializer(
        embedding,
        dtype,
        [rows, cols],
        denseSource(denseTensor(source, embedding, [rows, cols]), dtype),
      );
      return gather(g, table, ids);
    },
    head(g, x) {
      if (model.tiedHead && small !== undefined) return small.product(x);
      const headBits = bits.get(head);
      if (headBits !== undefined) return coded(g, head, headBits).product(x);
      if (model.tiedHead && table !== undefined) return untransposedProduct(g, x, table);
      return layer(g, { role: "lm_head", weight: head, rows, cols }, x);
    },
  };
}
