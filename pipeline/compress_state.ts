/**
 * Working state as bytes: a JSON header and arrays behind it. It is written and read by one run on one machine.
 *
 * @module
 */
import type { Factors, LayerImportance, PackedLayer, PackedTensor } from "./stream/stage.ts";

const encoder = new TextEncoder();

function join(header: unknown, parts: readonly Uint8Array[]): Uint8Array {
  const json = encoder.encode(JSON.stringify(header) + "\n");
  const out = new Uint8Array(json.length + parts.reduce((total, part) => total + part.length, 0));
  out.set(json);
  let position = json.length;
  for (const part of parts) {
    out.set(part, position);
    position += part.length;
  }
  return out;
}

function split(
  bytes: Uint8Array,
): { readonly header: unknown; readonly take: (length: number) => Uint8Array<ArrayBuffer> } {
  const end = bytes.indexOf(10);
  let position = end + 1;
  return {
    header: JSON.parse(new TextDecoder().decode(bytes.subarray(0, end))),
    take: (length) => bytes.slice(position, position += length),
  };
}

const bytesOf = (values: Float32Array | Uint16Array) =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** Importance of all layers as bytes. */
export function encodeImportance(importance: ReadonlyMap<string, LayerImportance>): Uint8Array {
  const entries = [...importance];
  return join(
    entries.map(([name, { input, output }]) => [name, input.length, output.length]),
    entries.flatMap(([, { input, output }]) => [bytesOf(input), bytesOf(output)]),
  );
}

/** The inverse of {@linkcode encodeImportance}. */
export function decodeImportance(bytes: Uint8Array): Map<string, LayerImportance> {
  const { header, take } = split(bytes);
  return new Map((header as [string, number, number][]).map(([name, inputs, outputs]) => {
    const input = new Float32Array(take(4 * inputs).buffer);
    return [name, { input, output: new Float32Array(take(4 * outputs).buffer) }];
  }));
}

/** A packed layer as bytes. */
export function encodePacked({ kind, attributes, tensors }: PackedLayer): Uint8Array {
  const entries = Object.entries(tensors);
  return join(
    { kind, attributes, tensors: entries.map(([key, { dtype, shape, data }]) => [key, dtype, shape, data.length]) },
    entries.map(([, { data }]) => data),
  );
}

/** The inverse of {@linkcode encodePacked}. */
export function decodePacked(bytes: Uint8Array): PackedLayer {
  const { header, take } = split(bytes);
  const { kind, attributes, tensors } = header as {
    kind: string;
    attributes: PackedLayer["attributes"];
    tensors: [string, PackedTensor["dtype"], number[], number][];
  };
  return {
    kind,
    attributes,
    tensors: Object.fromEntries(
      tensors.map(([key, dtype, shape, length]) => [key, { dtype, shape, data: take(length) }]),
    ),
  };
}

/** Latents of a layer (f16 bits) as bytes. */
export function encodeLatents(latents: NonNullable<Factors["latents"]>): Uint8Array {
  const entries = Object.entries(latents);
  return join(entries.map(([matrix, { length }]) => [matrix, length]), entries.map(([, values]) => bytesOf(values)));
}

/** The inverse of {@linkcode encodeLatents}. */
export function decodeLatents(bytes: Uint8Array): NonNullable<Factors["latents"]> {
  const { header, take } = split(bytes);
  return Object.fromEntries(
    (header as [string, number][]).map(([matrix, length]) => [matrix, new Uint16Array(take(2 * length).buffer)]),
  );
}
