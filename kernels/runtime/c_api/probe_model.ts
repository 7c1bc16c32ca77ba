/**
 * The smallest graph: proves that a provider loads.
 *
 * @module
 */

/** ONNX protobuf of `y = Identity(x)` with float32 `x` and `y` of shape [1]. */
export function probeModel(): Uint8Array<ArrayBuffer> {
  const value = (name: string) => [...string(1, name), ...message(2, message(1, [8, 1, 18, 4, 10, 2, 8, 1]))];
  const node = [...string(1, "x"), ...string(2, "y"), ...string(4, "Identity")];
  const graph = [...message(1, node), ...string(2, "probe"), ...message(11, value("x")), ...message(12, value("y"))];
  const irVersion = [8, 8];
  const opset13 = message(8, [16, 13]);
  const bytes = [...irVersion, ...message(7, graph), ...opset13];
  const model = new Uint8Array(new ArrayBuffer(bytes.length));
  model.set(bytes);
  return model;
}

/** A protobuf field that holds fewer than 128 bytes. */
function message(field: number, bytes: readonly number[]): number[] {
  return [field << 3 | 2, bytes.length, ...bytes];
}

function string(field: number, text: string): number[] {
  return message(field, [...new TextEncoder().encode(text)]);
}
