/** Numbers that PyTorch gave for the bundled model (tests/golden/make_gradients.py). */
export interface Golden {
  readonly windows: readonly Int32Array[];
  readonly loss: number;
  readonly tensors: Readonly<Record<string, string>>;
}

export async function readGolden(): Promise<Golden> {
  const file = JSON.parse(await Deno.readTextFile("tests/golden/tiny_llama_gradients.json"));
  return { windows: file.ids.map((ids: number[]) => Int32Array.from(ids)), loss: file.loss, tensors: file.tensors };
}

export function goldenArray(golden: Golden, name: string): Float32Array {
  const bytes = Uint8Array.from(atob(golden.tensors[name]), (char) => char.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/** ‖x − y‖ / ‖y‖. */
export function relativeError(x: ArrayLike<number>, y: ArrayLike<number>): number {
  let difference = 0, norm = 0;
  for (let at = 0; at < y.length; at++) {
    difference += (x[at] - y[at]) ** 2;
    norm += y[at] ** 2;
  }
  return Math.sqrt(difference / norm);
}
