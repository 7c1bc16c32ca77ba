/**
 * README.md of an exported directory: what is in it, how large, how to run it.
 *
 * @module
 */
import type { ArtefactReader } from "../artefact/types.ts";
import type { TableOptions } from "../model/tables.ts";
import type { ModelDescription } from "../model/types.ts";
import { entryStorage, storedBytes } from "../plan/storage.ts";

/** Ends the first line of every card: directories with it may be replaced by another export. */
export const CARD_MARK = "exported by dbf";

/** Numbers of an export that its card states. */
export interface ExportSummary {
  readonly model: ModelDescription;
  readonly source: Pick<ArtefactReader, "entries">;
  readonly target: string;
  readonly dtype: "f32" | "f16";
  /** Bits of embedding and head, where they are not of that type. */
  readonly tables?: TableOptions;
  /** Written files with their sizes. */
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
}

/** Bits of the compressed linears. */
export interface BitSummary {
  /** Linears by kind. */
  readonly kinds: ReadonlyMap<string, number>;
  /** Weights in compressed linears. */
  readonly weights: number;
  /** Mean bits of signs and codes per weight over all of them together; 0 without any. */
  readonly bitsPerWeight: number;
  /** As stored: with scales in the export's type, zero points and padding. */
  readonly effectiveBits: number;
}

/** Counts kinds and bits of a model's linears in an export of type `dtype`. */
export function summarizeBits(
  model: ModelDescription,
  source: Pick<ArtefactReader, "entries">,
  dtype: "f32" | "f16",
): BitSummary {
  const kinds = new Map<string, number>();
  const scale = dtype === "f32" ? 4 : 2;
  let weights = 0, codeBits = 0, storedBits = 0;
  for (const { linears } of model.blocks) {
    for (const { weight, rows, cols } of linears) {
      const entry = source.entries.get(weight);
      const kind = entry?.kind ?? "dense";
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
      const storage = entry === undefined ? undefined : entryStorage(entry);
      if (storage === undefined) continue;
      weights += rows * cols;
      codeBits += storage.codeBits;
      storedBits += 8 * storedBytes(storage, scale);
    }
  }
  const mean = (bits: number) => (weights === 0 ? 0 : bits / weights);
  return { kinds, weights, bitsPerWeight: mean(codeBits), effectiveBits: mean(storedBits) };
}

function megabytes(bytes: number): string {
  return bytes < 1e5 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** The card as markdown. */
export function modelCard({ model, source, target, dtype, tables = {}, files }: ExportSummary): string {
  const bits = summarizeBits(model, source, dtype);
  const kinds = [...bits.kinds].map(([kind, count]) => `${count} ${kind}`).join(", ");
  const count = ["dbf", "nbits", "sign"].reduce((sum, kind) => sum + (bits.kinds.get(kind) ?? 0), 0);
  const compressed = bits.weights === 0
    ? "Every layer is dense; no weight was compressed."
    : `The ${count} compressed linears hold ${(bits.weights / 1e6).toFixed(1)} million weights in signs and codes of ` +
      `${bits.bitsPerWeight.toFixed(3)} bits a weight (${bits.effectiveBits.toFixed(3)} with scales and padding).`;
  return `# ${model.architecture} decoder, ${CARD_MARK}

| | |
|---|---|
| target | ${target} |
| blocks | ${model.blocks.length} |
| hidden size, vocabulary | ${model.hiddenSize}, ${model.vocabularySize} |
| linears of the blocks | ${kinds} |
| type of dense weights and activations | ${dtype} |
${
    Object.entries(tables).filter(([, each]) => each !== undefined)
      .map(([table, each]) => `| bits of the ${table} | ${each} |\n`).join("")
  }
${compressed}

| file | size |
|---|---|
${files.map(({ name, bytes }) => `| ${name} | ${megabytes(bytes)} |`).join("\n")}

## Run it

With dbf: \`deno task dbf generate DIR "Once upon a time"\`, \`deno task dbf evaluate DIR --text FILE\`.

With any ONNX Runtime (1.20 or later): inputs \`input_ids\`, \`attention_mask\` (its length is past + new tokens) and
\`position_ids\`, all int64 \`[batch, tokens]\`, and \`past_key_values.N.key\` / \`.value\`
\`[batch, ${model.kvHeads}, past, ${model.headDim}]\` for N in 0 … ${
    model.blocks.length - 1
  } (past may be 0); outputs \`logits\` \`[batch, tokens, ${model.vocabularySize}]\` and
\`present.N.key\` / \`.value\`. Pad batches on the left, with 0 in the mask.
${
    !bits.kinds.has("dbf") && !bits.kinds.has("sign") ? "" : `
Binary layers are nodes \`ai.dbf::BinaryMatMul\`. Where dbf's operator library is registered, a native kernel reads the
packed signs; elsewhere the runtime inlines the portable body that the file carries and unpacks them to dense weights when
it loads the model: same results, more memory. Graph optimization "disabled" avoids the unpacked copies at the cost of speed.
`
  }${
    !bits.kinds.has("nbits") && Object.values(tables).every((each) => each !== 8 && each !== 4) ? "" : `
Rounded layers and tables are nodes \`com.microsoft::MatMulNBits\` and \`GatherBlockQuantized\`, operators of ONNX Runtime
(tried with 1.30).
`
  }`;
}
