/**
 * Rows of `deno task bench quality`: their table, and the reference's row.
 *
 * @module
 */
import { runPeer } from "./python.ts";

/** One line of the table. */
export interface QualityRow {
  readonly recipe: string;
  /** Sign bits per weight. */
  readonly bits: number;
  readonly perplexity: number;
  readonly perplexityStderr?: number;
  /** KL(full precision ‖ compressed), nats a token. */
  readonly kl?: number;
  readonly sameTop1?: number;
  /** Of the compression. */
  readonly seconds?: number;
  readonly peakBytes?: number;
  /** Training loss of the distillation at every tenth of its steps, nats a token. */
  readonly curve?: readonly number[];
}

/**
 * The table, in Markdown.
 *
 * @example
 * ```ts
 * import { assertStringIncludes } from "@std/assert";
 * import { renderQuality } from "./quality_rows.ts";
 *
 * const table = renderQuality([{ recipe: "dbf, balanced", bits: 1, perplexity: 28.684, kl: 0.6154, sameTop1: 0.59 }]);
 * assertStringIncludes(table, "| dbf, balanced | 1.00 | 28.68 | 0.6154 | 59.0 % | – | – |");
 * ```
 */
export function renderQuality(rows: readonly QualityRow[]): string {
  const number = (value: number | undefined, digits: number) => value === undefined ? "–" : value.toFixed(digits);
  const lines = rows.map((row) =>
    `| ${row.recipe} | ${number(row.bits, 2)} | ${number(row.perplexity, 2)} | ${number(row.kl, 4)} | ` +
    `${row.sameTop1 === undefined ? "–" : `${(100 * row.sameTop1).toFixed(1)} %`} | ${number(row.seconds, 0)} | ` +
    `${row.peakBytes === undefined ? "–" : (row.peakBytes / 2 ** 20).toFixed(0)} |`
  );
  return [
    "| recipe | bits | perplexity | KL | same top-1 | seconds | peak RSS (MiB) |",
    "|---|---:|---:|---:|---:|---:|---:|",
    ...lines,
  ].join("\n");
}

/** What the reference's recipe runs on. */
export interface PeerOptions {
  /** A Python with torch, transformers and tokenizers. */
  readonly python: string;
  readonly model: string;
  readonly calibration: string;
  readonly heldOut: string;
  readonly bits: number;
  readonly context: number;
  /** Scored tokens. */
  readonly tokens: number;
  readonly threads?: number;
}

/**
 * Runs the reference's recipe in PyTorch.
 *
 * @throws {Error} with what Python printed when it fails.
 */
export async function peerRow(options: PeerOptions): Promise<QualityRow> {
  const { python, model, calibration, heldOut, bits, context, tokens, threads = 0 } = options;
  const numbers = Object.entries({ bits, context, tokens, threads }).flatMap(([name, value]) => [
    `--${name}`,
    String(value),
  ]);
  const printed = await runPeer(python, "reference_recipe.py", [model, calibration, heldOut, ...numbers]);
  const found = JSON.parse(printed.split("\n").at(-1)!) as Omit<QualityRow, "recipe">;
  return { recipe: "reference recipe (PyTorch)", ...found };
}
