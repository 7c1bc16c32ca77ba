/**
 * Inverse frequencies of rotary embeddings with every kind of scaling.
 *
 * @module
 */
import type { RopeConfig } from "./config.ts";
import type { RopeDescription } from "./types.ts";

/** Kinds of scaling that {@linkcode describeRope} knows. */
export const ROPE_KINDS = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"] as const;

/**
 * Rotary embedding of a head.
 *
 * - `default` Su et al., arXiv 2104.09864: f_i = θ^(−2i/d).
 * - `linear` f/s (position interpolation, arXiv 2306.15595).
 * - `dynamic` stretches θ beyond the trained length only: equal to `default` up to it, which is what is served.
 * - `llama3` long wavelengths divided by s, short ones kept, a linear blend between.
 * - `yarn` arXiv 2309.00071: blend by the number of rotations within the trained length; temperature as `attentionFactor`.
 * - `longrope` arXiv 2402.13753: a factor for each frequency, one set up to the trained length, one beyond.
 *
 * @param rope Checked parameters, `rope_theta` present.
 * @param headDim Dimensions of a head.
 * @param maxPositions `max_position_embeddings`.
 * @throws {RangeError} for an unknown kind, or a parameter that its kind needs and that is absent or of the wrong length.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { describeRope } from "./rope.ts";
 *
 * const rope = describeRope({ rope_type: "linear", factor: 2, rope_theta: 10000 }, 4, 128);
 * assertEquals(rope.inverseFrequencies, [0.5, 0.005]);
 * ```
 */
export function describeRope(rope: RopeConfig, headDim: number, maxPositions: number): RopeDescription {
  const kind = rope.rope_type ?? rope.type ?? "default";
  const rotaryDim = Math.trunc(headDim * (rope.partial_rotary_factor ?? 1));
  if (rotaryDim < 2 || rotaryDim % 2 !== 0) {
    throw new RangeError(
      `Cannot rotate heads of ${headDim} as the rotated part must be even: current value is ${rotaryDim}`,
    );
  }
  const theta = need(rope, "rope_theta", kind);
  const plain = Array.from({ length: rotaryDim / 2 }, (_, i) => theta ** (-2 * i / rotaryDim));
  const describe = (inverseFrequencies: readonly number[], attentionFactor = 1): RopeDescription => ({
    inverseFrequencies,
    attentionFactor,
    rotaryDim,
  });
  switch (kind) {
    case "default":
    case "dynamic":
      return describe(plain);
    case "linear": {
      const factor = need(rope, "factor", kind);
      return describe(plain.map((frequency) => frequency / factor));
    }
    case "llama3":
      return describe(llama3(plain, rope, maxPositions));
    case "yarn":
      return describe(...yarn(plain, rope, theta, rotaryDim, maxPositions));
    case "longrope":
    case "su": {
      const trained = rope.original_max_position_embeddings ?? maxPositions;
      const scaled = (name: "short_factor" | "long_factor") => {
        const factors = rope[name];
        if (factors?.length !== plain.length) {
          throw new RangeError(
            `Cannot use rope scaling "${kind}" of config.json as ${name} needs ${plain.length} numbers: ` +
              `current value is ${factors?.length ?? "missing"}`,
          );
        }
        return plain.map((frequency, i) => frequency / factors[i]);
      };
      // The context grows by this; sqrt(1 + ln s / ln L) keeps attention's entropy.
      const growth = rope.factor ?? maxPositions / trained;
      const attention = rope.attention_factor ??
        (growth <= 1 ? 1 : Math.sqrt(1 + Math.log(growth) / Math.log(trained)));
      return {
        ...describe(scaled("short_factor"), attention),
        long: { after: trained, inverseFrequencies: scaled("long_factor") },
      };
    }
    default:
      throw new RangeError(
        `Cannot use the rope scaling of config.json, whose kind must be one of ${ROPE_KINDS.join(", ")}: ` +
          `current value is ${JSON.stringify(kind).slice(0, 80)}`,
      );
  }
}

/** Wavelengths longer than L/low are stretched s times, those shorter than L/high kept, in between blended. */
function llama3(plain: readonly number[], rope: RopeConfig, maxPositions: number): number[] {
  const factor = need(rope, "factor", "llama3");
  const low = need(rope, "low_freq_factor", "llama3");
  const high = need(rope, "high_freq_factor", "llama3");
  const trained = rope.original_max_position_embeddings ?? maxPositions;
  return plain.map((frequency) => {
    const wavelength = 2 * Math.PI / frequency;
    if (wavelength > trained / low) return frequency / factor;
    if (wavelength < trained / high) return frequency;
    const smooth = (trained / wavelength - low) / (high - low);
    return (1 - smooth) * frequency / factor + smooth * frequency;
  });
}

function yarn(
  plain: readonly number[],
  rope: RopeConfig,
  theta: number,
  dim: number,
  maxPositions: number,
): [number[], number] {
  const trained = rope.original_max_position_embeddings ?? maxPositions;
  const factor = rope.factor ?? maxPositions / trained;
  const temperature = (scale: number, m = 1) => scale <= 1 ? 1 : 0.1 * m * Math.log(scale) + 1;
  const attention = rope.attention_factor ??
    (rope.mscale && rope.mscale_all_dim
      ? temperature(factor, rope.mscale) / temperature(factor, rope.mscale_all_dim)
      : temperature(factor));
  // Dimension that rotates r times within the trained length: d·ln(L/(2πr)) / (2·ln θ).
  const dimensionOf = (rotations: number) =>
    dim * Math.log(trained / (rotations * 2 * Math.PI)) / (2 * Math.log(theta));
  let low = dimensionOf(rope.beta_fast || 32);
  let high = dimensionOf(rope.beta_slow || 1);
  if (rope.truncate ?? true) [low, high] = [Math.floor(low), Math.ceil(high)];
  low = Math.max(low, 0);
  high = Math.min(high, dim - 1);
  if (low === high) high += 0.001;
  const frequencies = plain.map((frequency, i) => {
    const ramp = Math.min(Math.max((i - low) / (high - low), 0), 1);
    return frequency / factor * ramp + frequency * (1 - ramp);
  });
  return [frequencies, attention];
}

function need(
  rope: RopeConfig,
  field: "rope_theta" | "factor" | "low_freq_factor" | "high_freq_factor",
  kind: string,
): number {
  const value = rope[field];
  if (value === undefined || value === null) {
    throw new RangeError(
      `Cannot use rope scaling "${kind}" of config.json as it needs "${field}": current value is missing`,
    );
  }
  return value;
}
