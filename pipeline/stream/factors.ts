/**
 * What factorizations make of a weight: one type for each kind, told apart by `kind`.
 *
 * @module
 */

/** Sign matrix, bit-packed: row r is words `r·w … r·w+w-1` with `w = ceil(cols/32)`; bit j of a row is column j, least significant first; 1 is +1, 0 is −1; padding bits are 0. */
export interface SignMatrix {
  readonly rows: number;
  readonly cols: number;
  /** `(rows, ceil(cols/32))` u32, row-major. */
  readonly words: Uint32Array;
}

/** What all kinds have. */
interface AnyFactors {
  /** ‖D_o^½ (W − Ŵ) D_i^½‖² / ‖D_o^½ W D_i^½‖². */
  readonly weightedError: number;
  /**
   * Continuous values of the signs by matrix (`A`, `B`, or `S`), in unit scale: one is the rank-1 magnitude (RESEARCH notation
   * X+U over it), for sign tuning; f16 bits, row-major.
   */
  readonly latents?: Readonly<Record<string, Uint16Array>>;
}

/** Double binary: W (n,m) ≈ diag(a)·A (n,k)·diag(mid)·B (k,m)·diag(b). */
export interface DbfFactors extends AnyFactors {
  readonly kind: "dbf";
  readonly rank: number;
  /** Signs of A, `(rows, rank)`. */
  readonly A: SignMatrix;
  /** Signs of B, `(rank, cols)`. */
  readonly B: SignMatrix;
  /** Output scale, `(rows,)`. */
  readonly a: Float32Array;
  /** Middle scale, `(rank,)`. */
  readonly mid: Float32Array;
  /** Input scale, `(cols,)`. */
  readonly b: Float32Array;
}

/** Bits of a code. */
export type CodeBits = 2 | 3 | 4 | 8;

/** Rounded: W[i,j] ≈ scales[i,g]·(code[i,j] − zeros[i,g]) with g = floor(j/group). */
export interface NbitsFactors extends AnyFactors {
  readonly kind: "nbits";
  readonly rows: number;
  readonly cols: number;
  /** Codes are 0 … 2^bits − 1. */
  readonly bits: CodeBits;
  /** Columns that share a scale and a zero point: a power of two, 16 to 256. */
  readonly group: number;
  /** `(rows, ceil(cols/group), group·s/8)` u8: codes of s = {@linkcode storedBits} bits, the first column least significant; codes of padding columns are 0. */
  readonly codes: Uint8Array;
  /** `(rows, ceil(cols/group))`. */
  readonly scales: Float32Array;
  /** `(rows, ceil(cols/group))`, 0 … 2^bits − 1. */
  readonly zeros: Uint8Array;
}

/** One sign a weight: W ≈ diag(a)·S·diag(b). */
export interface SignFactors extends AnyFactors {
  readonly kind: "sign";
  /** `(rows, cols)`. */
  readonly S: SignMatrix;
  /** Output scale, `(rows,)`. */
  readonly a: Float32Array;
  /** Input scale, `(cols,)`. */
  readonly b: Float32Array;
}

/** A factorized layer of any kind. */
export type Factors = DbfFactors | NbitsFactors | SignFactors;

/** Kinds of factors. */
export type FactorsKind = Factors["kind"];

/** Bits that a code takes where it is stored: ONNX Runtime has products for 2, 4 and 8 bits, so 3-bit codes take 4. */
export function storedBits(bits: CodeBits): 2 | 4 | 8 {
  return bits === 3 ? 4 : bits;
}

/**
 * The factors, which must be of a kind.
 *
 * @param name Of the weight, for errors.
 * @throws {TypeError} when they are of another.
 */
export function factorsOfKind<K extends FactorsKind>(
  name: string,
  factors: Factors,
  kind: K,
): Extract<Factors, { readonly kind: K }> {
  if (factors.kind === kind) return factors as Extract<Factors, { readonly kind: K }>;
  throw new TypeError(`Cannot use the factors of "${name}" as ${kind}: their kind is ${factors.kind}`);
}

/** What a factorized layer will be stored as, known before it is computed. */
export interface LayerStorage {
  readonly kind: FactorsKind;
  /** Whether the middle dimension decides the size: such layers share the budget of `--bits`, others have their own. */
  readonly ranked: boolean;
  /** Bits of all signs or codes, without scales, zero points and padding. */
  readonly codeBits: number;
  /** Bytes of signs, codes and zero points as stored, padding included. */
  readonly packedBytes: number;
  /** Scales: f32 in the artefact, of the export's type there. */
  readonly scales: number;
}
