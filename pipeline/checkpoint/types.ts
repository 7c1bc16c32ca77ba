/**
 * Reading tensors without holding them: handles say what is there, and rows are read on demand.
 *
 * @module
 */

/** Element types of safetensors files that a weight may have. */
export type WeightDType = "F64" | "F32" | "F16" | "BF16" | "F8_E4M3" | "F8_E5M2";

/** A tensor of a checkpoint, to be read on demand, whole or by rows. */
export interface TensorHandle {
  readonly name: string;
  /** As stored; reading always gives f32. */
  readonly dtype: WeightDType;
  readonly shape: readonly number[];
  /** Path of the file that holds it, for errors. */
  readonly file: string;
  /**
   * Rows `[start, end)` of a matrix as f32, row-major `(end-start, cols)`; for other ranks, slices of the first dimension.
   * F8 with a block `weight_scale_inv` is multiplied out.
   *
   * @throws {RangeError} when the range is outside the tensor.
   * @throws {Error} when the file is shorter than its header promised.
   */
  readRows(start: number, end: number, signal?: AbortSignal): Promise<Float32Array>;
  /** The whole tensor as f32. Holds `4 × elements` bytes: lease them first. */
  read(signal?: AbortSignal): Promise<Float32Array>;
  /** Stored bytes as they are, in chunks of at most `chunkBytes`, for copies and content hashes. */
  bytes(chunkBytes?: number): AsyncIterable<Uint8Array>;
}

/** A Hugging Face directory, opened: headers are read and checked, no weight is. */
export interface CheckpointReader extends Disposable {
  readonly directory: string;
  /** Parsed config.json, unchecked beyond being an object. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Parsed generation_config.json where there is one; its end-of-sequence ids precede those of config.json. */
  readonly generationConfig?: Readonly<Record<string, unknown>>;
  /** Handles by tensor name, in the file's order. */
  readonly tensors: ReadonlyMap<string, TensorHandle>;
  /**
   * @throws {Error} naming the tensor and the nearest names when it is absent.
   */
  tensor(name: string): TensorHandle;
  /** Files beside the weights that deployments need and that exist: tokenizer.json, tokenizer_config.json, generation_config.json, chat_template.jinja, …; absolute paths. */
  readonly companions: readonly string[];
  /** Most f32 bytes handed out by {@linkcode TensorHandle.read} and not yet garbage: a counter for the memory promise's test. */
  readonly bytesRead: number;
}
