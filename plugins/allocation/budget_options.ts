/**
 * Options that every allocation under one budget has.
 *
 * @module
 */
import * as v from "valibot";
import { MAX_BITS_PER_WEIGHT } from "../../pipeline/plan/bits.ts";

const Bits = v.pipe(v.number(), v.gtValue(0, "must be above 0 bits"), v.maxValue(MAX_BITS_PER_WEIGHT));

/** Largest step by default: a word of signs, which is what rows of both factors are padded to. */
export const DEFAULT_STEP = 32;

/** Schema entries; spread them into a stage's options. */
export const budgetEntries = {
  /**
   * Middle dimensions are multiples of this, or, in small layers, of the largest power of two that is at most an eighth
   * of the middle dimension at one bit: 32 from 576×576 up, 8 at 192×192.
   */
  step: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1)), DEFAULT_STEP),
  /** Fewest sign bits per weight of a layer. Where absent, a share of the mean that the stage documents. */
  minBits: v.optional(Bits),
  /** Most sign bits per weight of a layer. Where absent, a multiple of the mean that the stage documents. */
  maxBits: v.optional(Bits),
  /**
   * Most groups of consecutive blocks in which layers of one role and shape share a middle dimension, so that the blocks of a
   * group have one structure, and in a distillation the same sessions. Where absent, each layer has its own.
   */
  groups: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1))),
  /** Sign bits per weight by regular expression on weight names; of several that match, the last one counts. */
  overrides: v.optional(v.record(v.string(), Bits), {}),
};

/** What {@linkcode budgetEntries} parse to. */
export interface BudgetOptions {
  readonly step: number;
  readonly minBits?: number;
  readonly maxBits?: number;
  readonly groups?: number;
  readonly overrides: Readonly<Record<string, number>>;
}
