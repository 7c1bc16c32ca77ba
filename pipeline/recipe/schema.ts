/**
 * The recipe: everything that a run is told. Command-line flags only build one.
 *
 * @module
 */
import * as v from "valibot";
import { whyUnboundedRegex } from "../checkpoint/bounded_regex.ts";
import { TABLE_BITS, type TableBits } from "../model/tables.ts";
import { parseBytes } from "./units.ts";

/** Seconds that a call of a plugin's stage may take: a layer of a 70B model takes minutes, importance of one hours. */
export const DEFAULT_PLUGIN_DEADLINE_SECONDS = 6 * 3600;

const Count = v.pipe(v.number(), v.safeInteger("must be a whole number"), v.minValue(1, "must be at least 1"));

/** Bytes as a number or as text with a unit; becomes a number. */
const Bytes = v.pipe(
  v.union([v.string(), v.number()], 'must be bytes, e.g. "4GiB"'),
  v.rawTransform(({ dataset, addIssue, NEVER }) => {
    const bytes = parseBytes(dataset.value);
    if (bytes !== undefined) return bytes;
    addIssue({ message: `must be bytes above 0, e.g. "4GiB": current value is ${JSON.stringify(dataset.value)}` });
    return NEVER;
  }),
);

const Pattern = v.pipe(
  v.string(),
  v.check((source) => {
    try {
      new RegExp(source);
      return true;
    } catch {
      return false;
    }
  }, (issue) => `must be a regular expression: current value is ${issue.received}`),
  v.check(
    (source) => whyUnboundedRegex(source) === undefined,
    ({ input }) => `must not take exponential time: ${whyUnboundedRegex(String(input))}`,
  ),
);

/** A stage by name, with its options; a bare string is a name. */
const StageChoice = v.union([
  v.pipe(v.string(), v.nonEmpty(), v.transform((use) => ({ use, options: {} as Record<string, unknown> }))),
  v.strictObject({
    use: v.pipe(v.string("must be the name of a stage"), v.nonEmpty()),
    options: v.optional(v.record(v.string(), v.unknown()), {}),
  }),
], "must be a stage's name, or { use, options }");

/** Stages of a run by kind. `reconstruction` is a list, run in order for each block; `"none"` for `distillation` means no such step. */
const Stages = v.strictObject({
  importance: v.optional(StageChoice, "none"),
  allocation: v.optional(StageChoice, "uniform"),
  factorization: v.optional(StageChoice, "dbf-admm"),
  reconstruction: v.optional(v.array(StageChoice), []),
  packing: v.optional(StageChoice, "bits32"),
  distillation: v.optional(StageChoice),
  target: v.optional(StageChoice, "onnx"),
});

/** Samples that calibrated stages see. */
const Calibration = v.strictObject({
  /** A text file, JSON lines, or token ids; `"self"` for the model's own text. */
  source: v.pipe(v.string(), v.nonEmpty()),
  /** Windows. */
  sequences: v.optional(Count, 128),
  /** Windows of the model's own text beside these, which continue pieces of the text. Default 0; with the effort `best` twice as many as the text has. */
  generated: v.optional(v.pipe(v.number(), v.safeInteger("must be a whole number"), v.minValue(0))),
  /** Of the model's own text. */
  temperature: v.optional(v.pipe(v.number(), v.gtValue(0), v.maxValue(10))),
  /** Tokens a window. */
  length: v.optional(Count, 512),
});

const RecipeObject = v.strictObject({
  model: v.pipe(v.string("must be the checkpoint's directory"), v.nonEmpty()),
  out: v.pipe(v.string("must be the output directory"), v.nonEmpty()),
  from: v.optional(v.pipe(v.string("must be the directory of a finished run"), v.nonEmpty())),
  bits: v.optional(v.pipe(v.number(), v.gtValue(0, "must be above 0"), v.maxValue(16, "must be at most 16"))),
  size: v.optional(Bytes),
  stages: v.optional(Stages, {}),
  methods: v.optional(v.record(Pattern, StageChoice), {}),
  candidates: v.optional(
    v.record(v.pipe(v.string(), v.regex(/^[a-z][a-z0-9-]*$/, "must be lower case, digits and dashes")), StageChoice),
    {},
  ),
  plugins: v.optional(v.array(v.pipe(v.string(), v.nonEmpty())), []),
  pluginSandbox: v.optional(v.boolean(), false),
  pluginDeadline: v.optional(v.pipe(v.number(), v.gtValue(0, "must be above 0")), DEFAULT_PLUGIN_DEADLINE_SECONDS),
  keep: v.optional(v.array(Pattern), []),
  blocks: v.optional(
    v.tuple([v.pipe(v.number(), v.safeInteger(), v.minValue(0)), v.pipe(v.number(), v.safeInteger(), v.minValue(0))]),
  ),
  dtype: v.optional(v.picklist(["f32", "f16"]), "f32"),
  embedding: v.optional(v.picklist(TABLE_BITS, "must be 16, 8 or 4")),
  head: v.optional(v.picklist(TABLE_BITS, "must be 16, 8 or 4")),
  provider: v.optional(v.picklist(["cpu", "cuda", "webgpu"]), "cpu"),
  threads: v.optional(Count),
  deviceMemory: v.optional(Bytes),
  memory: v.optional(Bytes, "4GiB"),
  parallel: v.optional(Count, 1),
  seed: v.optional(v.pipe(v.number(), v.safeInteger("must be a whole number"), v.minValue(0)), 0),
  effort: v.optional(v.picklist(["fast", "balanced", "best"]), "balanced"),
  calibration: v.optional(Calibration),
  cache: v.optional(v.pipe(v.string(), v.nonEmpty())),
});

/** Names of a recipe's fields. */
export const RECIPE_FIELDS: readonly string[] = Object.keys(RecipeObject.entries);

/** Fields given to a run that has them from the one that it goes on from. */
function givenBesideFrom({ bits, size, blocks, keep, methods, candidates, stages }: Recipe): string[] {
  const { importance, allocation, factorization, reconstruction } = stages, left = v.parse(Stages, {});
  const isLeftOut = ({ use, options }: StageSelection, otherwise: StageSelection) =>
    use === otherwise.use && Object.keys(options).length === 0;
  return Object.entries({
    bits: bits !== undefined,
    size: size !== undefined,
    blocks: blocks !== undefined,
    keep: keep.length > 0,
    methods: Object.keys(methods).length > 0,
    candidates: Object.keys(candidates).length > 0,
    "stages.importance": !isLeftOut(importance, left.importance),
    "stages.allocation": !isLeftOut(allocation, left.allocation),
    "stages.factorization": !isLeftOut(factorization, left.factorization),
    "stages.reconstruction": reconstruction.length > 0,
  }).filter(([, given]) => given).map(([name]) => name);
}

/** Schema of a recipe; parsing fills in the defaults. */
export const RecipeSchema: v.GenericSchema<unknown, Recipe> = v.pipe(
  RecipeObject,
  v.check(
    (recipe) => recipe.from === undefined || givenBesideFrom(recipe).length === 0,
    ({ input }) =>
      `${
        givenBesideFrom(input as Recipe).join(", ")
      }: a run that goes on from another one has these from there; leave them out`,
  ),
  v.check(
    ({ from, stages: { distillation } }) =>
      from === undefined || (distillation !== undefined && distillation.use !== "none"),
    "from: such a run only distils; choose stages.distillation (on the command line give --calibration)",
  ),
  v.check(({ bits, size }) => bits === undefined || size === undefined, "give bits or size, not both"),
  v.check(
    ({ provider, deviceMemory }) => provider !== "cpu" || deviceMemory === undefined,
    "deviceMemory is a GPU's: give provider cuda or webgpu too, or leave it out (memory is the CPU's)",
  ),
);

/** A stage and its options as chosen by a recipe. */
export interface StageSelection {
  /** Name of the stage. */
  readonly use: string;
  /** Options, parsed by the stage's own schema. */
  readonly options: Readonly<Record<string, unknown>>;
}

/** How users write a {@linkcode StageSelection}: a bare name means default options. */
export type StageSelectionInput = string | {
  readonly use: string;
  readonly options?: Readonly<Record<string, unknown>>;
};

/** A recipe as users write it: defaults may be left out. {@linkcode Recipe} documents the fields. */
export interface RecipeInput {
  readonly model: string;
  readonly out: string;
  readonly from?: string;
  readonly bits?: number;
  readonly size?: number | string;
  readonly stages?: {
    readonly importance?: StageSelectionInput;
    readonly allocation?: StageSelectionInput;
    readonly factorization?: StageSelectionInput;
    readonly reconstruction?: readonly StageSelectionInput[];
    readonly packing?: StageSelectionInput;
    readonly distillation?: StageSelectionInput;
    readonly target?: StageSelectionInput;
  };
  readonly methods?: Readonly<Record<string, StageSelectionInput>>;
  readonly candidates?: Readonly<Record<string, StageSelectionInput>>;
  readonly plugins?: readonly string[];
  readonly pluginSandbox?: boolean;
  readonly pluginDeadline?: number;
  readonly keep?: readonly string[];
  readonly blocks?: readonly [number, number];
  readonly dtype?: "f32" | "f16";
  readonly embedding?: TableBits;
  readonly head?: TableBits;
  readonly provider?: "cpu" | "cuda" | "webgpu";
  readonly threads?: number;
  readonly deviceMemory?: number | string;
  readonly memory?: number | string;
  readonly parallel?: number;
  readonly seed?: number;
  readonly effort?: "fast" | "balanced" | "best";
  readonly calibration?: {
    readonly source: string;
    readonly sequences?: number;
    readonly generated?: number;
    readonly temperature?: number;
    readonly length?: number;
  };
  readonly cache?: string;
}

/** A recipe with its defaults. */
export interface Recipe {
  /** Directory of the full-precision checkpoint. */
  readonly model: string;
  /** Directory that receives the artefact, and the exported model in a folder named like the target. */
  readonly out: string;
  /**
   * Directory of a finished run on the same checkpoint to go on from: layers, and with them bits, blocks and what is kept dense, are that
   * run's, and only a distillation follows.
   */
  readonly from?: string;
  /** Mean of sign bits per weight over the compressed layers; 2 where this and `size` are absent. */
  readonly bits?: number;
  /** Largest exported model in bytes, instead of `bits`. */
  readonly size?: number;
  /** Stages by kind; `reconstruction` runs in order for each block. */
  readonly stages: {
    readonly importance: StageSelection;
    readonly allocation: StageSelection;
    readonly factorization: StageSelection;
    readonly reconstruction: readonly StageSelection[];
    readonly packing: StageSelection;
    readonly distillation?: StageSelection;
    readonly target: StageSelection;
  };
  /** Factorizations of layers by regular expression on weight names, instead of `stages.factorization`; of several that match, the last one counts. */
  readonly methods: Readonly<Record<string, StageSelection>>;
  /** Factorizations by a name of yours that the allocation may choose for a layer instead; `size` must be given. */
  readonly candidates: Readonly<Record<string, StageSelection>>;
  /** Specifiers of third-party stages: `./file.ts`, an absolute path, or `npm:name`. */
  readonly plugins: readonly string[];
  /** Run plugins in workers without permissions. Default false. */
  readonly pluginSandbox: boolean;
  /** Seconds that one call of a plugin's stage may take; six hours by default. */
  readonly pluginDeadline: number;
  /** Regular expressions on weight names; what matches stays dense. */
  readonly keep: readonly string[];
  /** First and last block, both included; the model that is made has only these. */
  readonly blocks?: readonly [number, number];
  /** Type of what stays dense and of activations in the exported model. */
  readonly dtype: "f32" | "f16";
  /** Bits of the embedding in the exported model, and of a head tied to it; as `dtype` where absent. */
  readonly embedding?: TableBits;
  /** Bits of a head of its own in the exported model; as `dtype` where absent. */
  readonly head?: TableBits;
  readonly provider: "cpu" | "cuda" | "webgpu";
  /** Threads inside an operator; one a core where absent, on a GPU 1. */
  readonly threads?: number;
  /**
   * Bytes of the GPU's memory that activations, training state and caches may fill, for the providers `cuda` (16 GiB where absent)
   * and `webgpu` (4 GiB); sessions and weights come on top. More makes a run faster where there is more.
   */
  readonly deviceMemory?: number;
  /** The memory lease in bytes. */
  readonly memory: number;
  /** Layer jobs in flight at once. */
  readonly parallel: number;
  readonly seed: number;
  /** Preset for stages that have an option `effort` and were not given one. */
  readonly effort: "fast" | "balanced" | "best";
  /**
   * Samples that calibrated stages see: `sequences` windows of `length` tokens from the file `source` (`"self"`: the
   * model's own text), and `generated` more of the model's own text (with the effort `best` twice as many where absent), drawn at
   * `temperature` (1 where absent).
   */
  readonly calibration?: {
    readonly source: string;
    readonly sequences: number;
    readonly generated?: number;
    readonly temperature?: number;
    readonly length: number;
  };
  /** Directory where runs on one checkpoint and text leave importance and the model's own text for each other; it never changes results. */
  readonly cache?: string;
}
