/**
 * What an inference rule is, and the arithmetic of axes and broadcasting that rules share.
 *
 * @module
 */
import type { DType } from "../../kernels/runtime/types.ts";
import type { Attribute, Dim, Value } from "./types.ts";

/** What a rule sees. */
export interface InferenceContext {
  readonly type: string;
  readonly inputs: readonly (Value | undefined)[];
  readonly attributes: Readonly<Record<string, Attribute>>;
  /** Entries of a 1-D integer value where they are known. */
  integers(value: Value | undefined): readonly Dim[] | undefined;
  /** A dimension that nothing is known of. */
  fresh(): Dim;
}

/** Type and shape of one output. */
export interface Inferred {
  readonly dtype: DType;
  readonly shape: readonly Dim[];
}

/** Outputs of an operator from its inputs. */
export type Rule = (context: InferenceContext) => readonly Inferred[];

/**
 * Input `index`, which must be there.
 *
 * @throws {TypeError} when it is absent.
 */
export function required(context: InferenceContext, index: number): Value {
  const value = context.inputs[index];
  if (value === undefined) throw new TypeError(`Cannot add ${context.type} without its input ${index}`);
  return value;
}

/** Attribute `name` as a number. */
export function numberAttribute(context: InferenceContext, name: string, otherwise: number): number {
  const value = context.attributes[name];
  if (value === undefined) return otherwise;
  if (typeof value === "number" || typeof value === "bigint") return Number(value);
  throw new TypeError(`Cannot read attribute ${name} of ${context.type} as a number`);
}

/**
 * `axis` counted from the front.
 *
 * @throws {RangeError} outside the rank.
 */
export function normalizeAxis(axis: number, rank: number, type: string): number {
  const result = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(axis) || result < 0 || result >= Math.max(rank, 1)) {
    throw new RangeError(`Cannot use axis ${axis} in ${type}: the tensor has ${rank} dimensions`);
  }
  return result;
}

/**
 * The shape that numpy's broadcasting gives; two different names give a fresh dimension.
 *
 * @throws {RangeError} when two sizes differ and none is 1.
 */
export function broadcast(
  type: string,
  shapes: readonly (readonly Dim[])[],
  fresh: () => Dim,
): readonly Dim[] {
  const rank = Math.max(0, ...shapes.map((shape) => shape.length));
  const result: Dim[] = [];
  for (let axis = 0; axis < rank; axis++) {
    let dim: Dim = 1;
    for (const shape of shapes) {
      const at = axis - (rank - shape.length);
      if (at < 0) continue;
      const other = shape[at];
      if (other === dim || other === 1) continue;
      if (dim === 1) dim = other;
      else if (typeof dim === "number" && typeof other === "number") {
        throw new RangeError(
          `Cannot broadcast in ${type}: shapes ${shapes.map((s) => `[${s.join(", ")}]`).join(" and ")} disagree`,
        );
      } else if (typeof other === "number") dim = other;
      else if (typeof dim === "string") dim = fresh();
    }
    result.push(dim);
  }
  return result;
}
