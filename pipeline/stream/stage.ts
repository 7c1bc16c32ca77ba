/**
 * What a stage is: a plain object made by {@linkcode defineStage}. Every built-in is one, exactly like a third party's.
 *
 * @module
 */
import type * as v from "valibot";
import type { Runtime, Tensor } from "../../kernels/runtime/types.ts";
import type { DbfEvent } from "./events.ts";
import type { CheckpointReader, TensorHandle } from "../checkpoint/types.ts";
import type { TableOptions } from "../model/tables.ts";
import type { ModelDescription } from "../model/types.ts";
import type { ArtefactReader } from "../artefact/types.ts";
import type { Factors, LayerStorage } from "./factors.ts";

export type {
  CodeBits,
  DbfFactors,
  Factors,
  FactorsKind,
  LayerStorage,
  NbitsFactors,
  SignFactors,
  SignMatrix,
} from "./factors.ts";

/** Kinds of stages, in the order in which layers meet them. */
export type StageKind =
  | "importance"
  | "allocation"
  | "factorization"
  | "reconstruction"
  | "packing"
  | "distillation"
  | "target";

/** What one call of a stage sees: the whole model (a barrier), one decoder block, or one linear layer. */
export type StageScope = "model" | "block" | "layer";

/** One linear layer to compress: names and numbers only, so it can be sent to a worker. */
export interface LayerShape {
  /** Name of the weight in the checkpoint, e.g. `"model.layers.3.mlp.up_proj.weight"`. */
  readonly name: string;
  /** Index of the decoder block. */
  readonly block: number;
  /** The linear inside its block, e.g. `"self_attn.q_proj"`. */
  readonly role: string;
  /** Output features n. */
  readonly rows: number;
  /** Input features m. */
  readonly cols: number;
}

/** A layer with its budget. */
export interface LayerJob extends LayerShape {
  /** Middle dimension k ≥ 1; 0 for a factorization whose size has none. */
  readonly rank: number;
  /** Which of the run's factorizations makes it: `"default"` (also where absent), the pattern of the recipe's `methods` that chose it, or the name of one of its `candidates`. */
  readonly method?: string;
  /** hash(run seed, tensor name), 32 bits: independent of order and parallelism. */
  readonly seed: number;
}

/** Diagonal importance of one layer; both are means over tokens, ≥ 0, in arbitrary common units. */
export interface LayerImportance {
  /** E[x²] of every input feature, `(cols,)`. */
  readonly input: Float32Array;
  /** E[g²] of every output feature, `(rows,)`. */
  readonly output: Float32Array;
}

/** One stored tensor of a packed layer. */
export interface PackedTensor {
  readonly dtype: "F32" | "F16" | "BF16" | "U8" | "I8" | "U32" | "I32";
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/** What packing makes of a layer and the artefact stores. `kind` is `dbf`, `nbits`, `dense`, or a plugin's own. */
export interface PackedLayer {
  readonly kind: string;
  /** Numbers a target needs beside the tensors, e.g. `{ rank, layout }`. */
  readonly attributes: Readonly<Record<string, string | number | boolean>>;
  readonly tensors: Readonly<Record<string, PackedTensor>>;
}

/** What a stage asks of the machine for one call. */
export interface StageEstimate {
  /** Most bytes held at once, input and output included. */
  readonly peakBytes: number;
  /** Useful floating-point operations, for time estimates; 0 when negligible. */
  readonly flops?: number;
}

/** A whole run in shapes: what model- and block-wide stages need to know of it to say what memory they take. */
export interface RunShape {
  readonly model: ModelDescription;
  /** Layers that are compressed, with their middle dimensions (0 for kinds without one). */
  readonly layers: readonly (LayerShape & { readonly rank: number })[];
  /** Most windows, and tokens of each; 0 windows for a run without calibration. */
  readonly calibration: { readonly windows: number; readonly tokens: number };
  /** What sessions of small layers keep for each other between factorizations, and what the largest factorization holds. */
  readonly factorizationBytes: { readonly kept: number; readonly largest: number };
}

/** Which layers a stage accepts, as data, so that `plan` can answer without running anything. */
export interface StageFilter {
  /** Regular expression on the weight's name. */
  readonly include?: string;
  readonly exclude?: string;
  /** Fewest elements rows × cols. */
  readonly minElements?: number;
}

/** What every stage is handed beside its input. */
export interface StageContext {
  /** The provider that this run computes on. */
  readonly runtime: Runtime;
  /** Aborted on Ctrl-C or by the caller; long loops check it between graph runs. */
  readonly signal: AbortSignal;
  /** Directory for working state that may be deleted at any time between runs. */
  readonly scratch: string;
  /** Reports progress; the library never prints. */
  emit(event: DbfEvent): void;
}

/** What an allocation may spend, and on what. */
export interface AllocationBudget {
  /** Everything together. */
  readonly total: number;
  /** Sign bits for a mean of bits per weight, bytes of the exported model for a size. */
  readonly unit: "sign bits" | "bytes";
  /** What a layer costs at a middle dimension; it rises with it. */
  cost(layer: Pick<LayerShape, "name" | "rows" | "cols">, rank: number): number;
  /** What a layer costs that is stored in some other way. */
  costOf(storage: LayerStorage): number;
  /**
   * The error of a budget that cannot be met, naming the smallest that can.
   *
   * @param least What the layers cost at least.
   * @param reasons Why they do.
   */
  tooSmall(least: number, reasons: string): RangeError;
}

/** What an allocation finds for a layer. */
export interface AllocatedLayer {
  /** Middle dimension; 0 for a candidate. */
  readonly rank: number;
  /** Name of the candidate that makes the layer instead of the run's factorization. */
  readonly method?: string;
  readonly reason: string;
}

/** What an allocation finds, by weight name. */
export type Allocated = ReadonlyMap<string, AllocatedLayer>;

/** A factorization without middle dimension that an allocation may choose for a layer. */
export interface Candidate {
  /** What it would store; `undefined` where it doesn't take the layer. */
  stores(layer: LayerShape): LayerStorage | undefined;
  /** Makes the layer, as the run would. */
  make(layer: LayerShape): Promise<Factors>;
  /** What its result depends on beside the layer. */
  readonly identity: unknown;
}

/** What an allocation can say from shapes alone. */
export interface Proposal {
  readonly ranks: Allocated;
  /** Whether `run` gives the same; otherwise it measures first. */
  readonly final: boolean;
}

/** Input and output of each kind of stage. */
export interface StageIO {
  importance: {
    input: {
      readonly checkpoint: CheckpointReader;
      readonly model: ModelDescription;
      readonly layers: readonly LayerShape[];
      /** Token ids, windows of equal length; empty for a run without calibration. */
      readonly calibration: readonly Int32Array[];
    };
    /** By weight name; a layer left out has importance one everywhere. */
    output: ReadonlyMap<string, LayerImportance>;
  };
  allocation: {
    input: {
      /** Layers whose size a middle dimension decides; others have what the recipe's `methods` say. */
      readonly layers: readonly LayerShape[];
      /** Mean sign bits per weight over these layers together. */
      readonly bitsPerWeight: number;
      /** What these layers may cost: those bits, or bytes that a size leaves for them. */
      readonly budget: AllocationBudget;
      readonly importance: ReadonlyMap<string, LayerImportance>;
      /** Reads a layer's weight, for plugins that measure. Never keep more than one. */
      readonly weight: (name: string) => TensorHandle;
      /** Of the run: its factorization of a layer has seed hash(seed, weight name). */
      readonly seed: number;
      /** Offers what a trial made; the run takes it where it would make the same. */
      /** By name; empty unless the recipe names some. */
      readonly candidates: ReadonlyMap<string, Candidate>;
      readonly offer: (trial: {
        readonly stage: { readonly name: string; readonly version: string };
        readonly options: Readonly<Record<string, unknown>>;
        readonly job: LayerJob;
        readonly factors: Factors;
      }) => void;
    };
    output: Allocated;
  };
  factorization: {
    input: {
      readonly job: LayerJob;
      readonly weight: TensorHandle;
      readonly importance: LayerImportance | undefined;
      /** Σ x xᵀ over calibration tokens, `(cols, cols)` f32, where the stage asked for it and a reconstruction stage measured it. */
      readonly inputMoment?: Tensor;
    };
    output: Factors;
  };
  reconstruction: {
    input: {
      readonly block: number;
      readonly model: ModelDescription;
      readonly checkpoint: CheckpointReader;
      readonly jobs: readonly LayerJob[];
      readonly importance: ReadonlyMap<string, LayerImportance>;
      /** Token ids, windows of equal length; empty for a run without calibration. */
      readonly calibration: readonly Int32Array[];
      /** Whether the layer's factorization wants Σ x xᵀ of its input. */
      readonly wantsInputMoment: (job: LayerJob) => boolean;
      /** Factorizes a (possibly retuned) weight with the layer's factorization stage. */
      readonly factorize: (job: LayerJob, weight: TensorHandle, inputMoment?: Tensor) => Promise<Factors>;
      /** Factors of a layer of an earlier block, as committed; `undefined` where the layer was kept dense. */
      readonly committed: (name: string) => Promise<Factors | undefined>;
    };
    /** Factors by weight name; `latents` where a distillation stage follows. */
    output: ReadonlyMap<string, Factors>;
  };
  packing: {
    input: { readonly job: LayerJob; readonly factors: Factors };
    output: PackedLayer;
  };
  /** Tunes the whole compressed model after every block is committed; each layer it changes is committed again. */
  distillation: {
    input: {
      readonly model: ModelDescription;
      readonly checkpoint: CheckpointReader;
      /** The compressed layers; every other weight stays as in the checkpoint. */
      readonly jobs: readonly LayerJob[];
      readonly importance: ReadonlyMap<string, LayerImportance>;
      /** Token ids, windows of equal length. */
      readonly calibration: readonly Int32Array[];
      /** Committed factors of a layer, with `latents` where working state still has them; read anew at every call, so that the arrays are the caller's. */
      readonly factors: (name: string) => Promise<Factors>;
      /** Commits the next generation of a layer. */
      readonly commit: (name: string, factors: Factors) => Promise<void>;
    };
    output: {
      /** Training loss of the last steps, nats a token. */
      readonly loss: number;
      /** Share of signs that changed. */
      readonly flipped: number;
      /** Of the result on the first windows of the calibration text. */
      readonly perplexity?: number;
    };
  };
  target: {
    input: {
      /** Committed layers, or a checkpoint seen as one whose layers are all dense. */
      readonly source: ArtefactReader;
      readonly model: ModelDescription;
      /** Directory to write; exists and is empty. The caller renames it into place. */
      readonly directory: string;
      /** Type of what stays dense and of activations. */
      readonly dtype: "f32" | "f16";
      /** Bits of embedding and head, where they are not as everything dense. */
      readonly tables?: TableOptions;
    };
    output: { readonly files: readonly string[] };
  };
}

/** Schema of a stage's options; `unknown` parses into it. */
// deno-lint-ignore no-explicit-any -- valibot's own constraint for "any object schema"
export type OptionsSchema = v.GenericSchema<any, Record<string, any>>;

/** A stage of kind `K` whose options have schema `S`. */
export interface Stage<K extends StageKind = StageKind, S extends OptionsSchema = OptionsSchema> {
  readonly kind: K;
  readonly scope: StageScope;
  /** Chosen by users, e.g. `"dbf-admm"`: lower case, digits and dashes. */
  readonly name: string;
  /** Semantic version; it enters the run's fingerprint, so raise it when results change. */
  readonly version: string;
  /** One sentence for `--help` and `inspect`. */
  readonly description: string;
  /** A valibot object schema; every field has a default. */
  readonly options: S;
  readonly filter?: StageFilter;
  /** Factorizations: what a layer will be stored as. Pure and cheap. The double-binary kind of `layer.rank` where absent. */
  stores?(layer: LayerShape & { readonly rank: number }, options: v.InferOutput<S>): LayerStorage;
  /** Allocations: whether it chooses among a recipe's candidates; others are refused with any. */
  readonly choosesCandidates?: boolean;
  /** Factorizations: whether `inputMoment` improves the result; measuring it costs a pass over the calibration windows. */
  readonly wantsInputMoment?: boolean;
  /**
   * Allocations: what they find, or start from, without reading a weight or a text, for `plan` and for checks before a run. It
   * throws what `run` would for a budget or options that cannot be met. Pure and cheap.
   */
  propose?(
    input: Pick<StageIO["allocation"]["input"], "layers" | "bitsPerWeight" | "budget">,
    options: v.InferOutput<S>,
  ): Proposal;
  /** Bytes and operations for one layer; model stages get the largest layer. Must be pure and cheap. */
  estimate(layer: LayerShape & { readonly rank: number }, options: v.InferOutput<S>): StageEstimate;
  /**
   * Importance and reconstruction: most calibration tokens that the stage is given, in whole windows: the text's, evenly chosen, and the
   * model's own only where the text has fewer. All of them where absent. `peakBytesOf` and `flopsOf` get a run of so many. Pure and cheap.
   */
  calibrationTokens?(options: v.InferOutput<S>): number;
  /**
   * Distillation: most calibration tokens of which it keeps activations at once, on a device or in files. All of them where absent. Pure and
   * cheap.
   *
   * @param shape Of the activations of all windows.
   */
  keptTokens?(
    shape: { readonly windows: number; readonly tokens: number; readonly features: number },
    device: Pick<Runtime, "provider" | "deviceMemory">,
    options: v.InferOutput<S>,
  ): number;
  /** Model and block stages: peak bytes on a whole run, where the largest layer's estimate does not say it. Pure and cheap. */
  peakBytesOf?(run: RunShape, options: v.InferOutput<S>): number;
  /** Model and block stages: useful operations on a whole run, where the sum of the layers' estimates does not say it. Pure and cheap. */
  flopsOf?(run: RunShape, options: v.InferOutput<S>): number;
  run(input: StageIO[K]["input"], options: v.InferOutput<S>, context: StageContext): Promise<StageIO[K]["output"]>;
}

/** Kinds whose stages see one layer at a time, and so on: the scope follows from the kind. */
export const STAGE_SCOPES: Readonly<Record<StageKind, StageScope>> = {
  importance: "model",
  allocation: "model",
  factorization: "layer",
  reconstruction: "block",
  packing: "layer",
  distillation: "model",
  target: "model",
};

/**
 * Declares a stage; an identity function that infers the types.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import * as v from "valibot";
 * import { defineStage } from "./stage.ts";
 *
 * const stage = defineStage({
 *   kind: "allocation",
 *   scope: "model",
 *   name: "constant-rank",
 *   version: "1.0.0",
 *   description: "The same middle dimension for every layer.",
 *   options: v.strictObject({ rank: v.optional(v.number(), 8) }),
 *   estimate: () => ({ peakBytes: 0 }),
 *   run: ({ layers }, { rank }) =>
 *     Promise.resolve(new Map(layers.map((layer) => [layer.name, { rank, reason: "constant" }]))),
 * });
 * assertEquals(stage.name, "constant-rank");
 * ```
 */
export function defineStage<K extends StageKind, S extends OptionsSchema>(stage: Stage<K, S>): Stage<K, S> {
  return stage;
}
