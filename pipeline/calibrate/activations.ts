/**
 * Block inputs and outputs of all calibration windows, in a file or on the device: taken by batches.
 *
 * @module
 */
import type { Runtime, Tensor } from "../../kernels/runtime/types.ts";
import { readFloats } from "./engine.ts";
import { freeArrays, moveToTensor } from "./move_array.ts";

/** Activations `(windows, tokens, features)` f32 that can be taken. */
export interface ActivationSource extends Disposable, ActivationShape {
  /** Windows in the order asked for, `(indices.length, tokens, features)`, on the device; the caller disposes it. */
  tensor(indices: readonly number[]): Promise<Tensor>;
  /** Gives the memory of windows back, which cannot be taken again; only on what was {@linkcode ResidentChains.take taken} whole. */
  release?(indices: readonly number[]): void;
}

/** Activations that are stored. */
export interface Activations extends ActivationSource {
  /** Stores consecutive windows from `first` on, `(any, tokens, features)`; takes the tensor over. */
  write(first: number, data: Tensor): Promise<void>;
}

/** Shape of activations. */
export interface ActivationShape {
  readonly windows: number;
  readonly tokens: number;
  readonly features: number;
}

/**
 * Opens a file of activations, existing or new.
 *
 * @param options `create` starts an empty file in place of an existing one.
 * @throws {RangeError} when an existing file has another size than the shape says.
 */
export function openActivations(
  runtime: Runtime,
  path: string,
  shape: ActivationShape,
  options: { readonly create: boolean },
): Activations {
  const { windows, tokens, features } = shape;
  const windowBytes = 4 * tokens * features;
  const file = Deno.openSync(path, { read: true, write: true, create: options.create, truncate: options.create });
  const { size } = file.statSync();
  if (!options.create && size !== windows * windowBytes) {
    file.close();
    throw new RangeError(
      `Cannot use "${path}" as activations of ${windows} × ${tokens} × ${features}: it has ${size} bytes`,
    );
  }
  let closed = false;
  return {
    ...shape,
    tensor(indices) {
      const data = new Float32Array(indices.length * tokens * features);
      const bytes = new Uint8Array(data.buffer);
      indices.forEach((window, place) => {
        file.seekSync(window * windowBytes, Deno.SeekMode.Start);
        readFully(file, path, bytes.subarray(place * windowBytes, (place + 1) * windowBytes));
      });
      return Promise.resolve(moveToTensor(runtime, data, [indices.length, tokens, features]));
    },
    async write(first, data) {
      const floats = await readFloats(data);
      file.seekSync(first * windowBytes, Deno.SeekMode.Start);
      const bytes = new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
      for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
      freeArrays([floats]);
    },
    [Symbol.dispose]() {
      if (!closed) file.close();
      closed = true;
    },
  };
}

function readFully(file: Deno.FsFile, path: string, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) {
    const count = file.readSync(bytes.subarray(done));
    if (count === null) throw new Error(`Cannot read "${path}": it ends before the activations asked for`);
    done += count;
  }
}

/** Indices `0 … windows−1` in batches of at most `size`. */
export function batchesOf(windows: number, size: number): number[][] {
  return Array.from(
    { length: Math.ceil(windows / size) },
    (_, batch) => Array.from({ length: Math.min(size, windows - batch * size) }, (_, index) => batch * size + index),
  );
}
