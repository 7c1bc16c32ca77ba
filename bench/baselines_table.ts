/**
 * The table of `bench baselines`.
 *
 * @module
 */
import type { Contender } from "./baselines_rows.ts";
import type { QualityRun } from "./quality_run.ts";

/** A contender with what was measured. */
export interface Measured {
  readonly contender: Contender;
  readonly run: QualityRun;
  /** Of generation, greedy; absent where it was not measured. */
  readonly tokensPerSecond?: number;
}

/** Most effective bits up to which double-binary layers are meant to be the best choice. */
const FRONTIER_BITS = 2.3;

/**
 * Whether no contender is as small (in effective bits) and closer to full precision.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { onFrontier } from "./baselines_table.ts";
 *
 * const points = [{ bits: 1, kl: 0.6 }, { bits: 2, kl: 0.7 }, { bits: 2.2, kl: 0.3 }];
 * assertEquals(points.map((point) => onFrontier(point, points)), [true, false, true]);
 * ```
 */
export function onFrontier(
  { bits, kl }: { readonly bits: number; readonly kl: number },
  all: readonly { readonly bits: number; readonly kl: number }[],
): boolean {
  return all.every((other) => other.bits > bits || other.kl > kl || other.bits === bits && other.kl === kl);
}

/** What is as small as a row and closer to full precision: the closest of those. */
function betterThan(row: Measured, rows: readonly Measured[]): Measured | undefined {
  return rows.filter(({ run }) => run.effectiveBits <= row.run.effectiveBits && klOf({ run }) < klOf(row))
    .sort((a, b) => klOf(a) - klOf(b))[0];
}

function klOf({ run }: Pick<Measured, "run">): number {
  return run.texts.heldOut.kl ?? NaN;
}

/** Markdown, and below it where double-binary layers are not on the frontier up to 2.3 effective bits. */
export function renderBaselines(rows: readonly Measured[]): string {
  const point = ({ run }: Measured) => ({ bits: run.effectiveBits, kl: klOf({ run }) });
  const points = rows.map(point);
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const cells = rows.map((row) => {
    const { contender, run, tokensPerSecond } = row;
    const { perplexity, perplexityStderr, kl = NaN, sameTop1 = NaN } = run.texts.heldOut;
    return line([
      contender.method,
      contender.group?.toString() ?? "–",
      contender.tuning,
      run.effectiveBits.toFixed(3),
      run.modelBytes.toLocaleString("en"),
      `${perplexity.toFixed(2)} ± ${perplexityStderr.toFixed(2)}`,
      kl.toFixed(4),
      `${(100 * sameTop1).toFixed(1)} %`,
      tokensPerSecond?.toFixed(0) ?? "–",
      onFrontier(point(row), points) ? "yes" : "",
    ]);
  });
  const binary = rows.filter(({ contender }) => contender.id.startsWith("dbf-"));
  const beaten = binary.filter((row) => row.run.effectiveBits <= FRONTIER_BITS && !onFrontier(point(row), points));
  const verdict = binary.length === 0 ? [] : [
    "",
    ...(rows.some(({ contender }) => contender.method.includes(" 3 bits"))
      ? [
        "Codes of 3 bits are stored in 4, as ONNX Runtime has no product for 3: packed densely they would be one bit smaller.",
        "",
      ]
      : []),
    beaten.length === 0
      ? `Up to ${FRONTIER_BITS} effective bits every DBF row is on the frontier: nothing of its size or smaller is closer to full precision.`
      : `Not on the frontier although at most ${FRONTIER_BITS} effective bits: ${
        beaten.map((row) => {
          const { contender, run } = betterThan(row, rows)!;
          return `${row.contender.method} (${contender.method}: ${run.effectiveBits.toFixed(3)} effective bits, KL ${
            klOf({ run }).toFixed(4)
          })`;
        }).join(", ")
      }.`,
  ];
  return [
    "| method | group | tuning | effective bits | bytes of the ONNX | perplexity | KL | same top-1 | tokens/s | frontier |",
    "|---|---:|---|---:|---:|---:|---:|---:|---:|---|",
    ...cells,
    ...verdict,
  ].join("\n");
}
