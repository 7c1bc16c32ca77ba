/**
 * Memory shared with C: buffers that stay where they are, C strings, arrays of addresses.
 *
 * V8 keeps small typed arrays inside its moving heap; every array whose address outlives a call is therefore a view of an
 * `ArrayBuffer` made first, which never moves while something refers to it.
 *
 * @module
 */

const encoder = new TextEncoder();

/** An array of addresses or sizes that does not move, and its own address. */
export interface Words {
  readonly words: BigUint64Array<ArrayBuffer>;
  readonly address: bigint;
  /** Words in use; the array has at least one. */
  readonly count: number;
  /** The same as a C size: Deno's fast calls take 64-bit integers as bigints only. */
  readonly size: bigint;
  /** What the addresses in it refer to, kept alive with it. */
  readonly keep?: readonly unknown[];
}

/** Address of the first byte of memory that does not move. */
export function addressOf(array: ArrayBufferView<ArrayBuffer>): bigint {
  return Deno.UnsafePointer.value(Deno.UnsafePointer.of(array));
}

/** An array of `count` zero words (at least one, so that it has an address). */
export function newWords(count: number): Words {
  const words = new BigUint64Array(new ArrayBuffer(8 * Math.max(1, count)));
  return { words, address: addressOf(words), count, size: BigInt(count) };
}

/** UTF-8 bytes of a text with the closing zero that C expects, in memory that does not move. */
export function cString(text: string): Uint8Array<ArrayBuffer> {
  const encoded = encoder.encode(text);
  const bytes = new Uint8Array(new ArrayBuffer(encoded.length + 1));
  bytes.set(encoded);
  return bytes;
}

/** A C array of C strings. */
export function cStrings(texts: readonly string[]): Words {
  const strings = texts.map(cString);
  const list = newWords(strings.length);
  strings.forEach((string, index) => list.words[index] = addressOf(string));
  return { ...list, keep: strings };
}

/** The text at the address of a C string; empty for address 0. */
export function textAt(address: bigint): string {
  const pointer = Deno.UnsafePointer.create(address);
  return pointer === null ? "" : Deno.UnsafePointerView.getCString(pointer);
}

/** Copies `count` words at an address. */
export function wordsAt(address: bigint, count: number): BigUint64Array<ArrayBuffer> {
  const copy = new BigUint64Array(new ArrayBuffer(8 * count));
  const pointer = Deno.UnsafePointer.create(address);
  if (count > 0 && pointer !== null) Deno.UnsafePointerView.copyInto(pointer, copy);
  return copy;
}

/** Copies bytes of JavaScript to an address. */
export function writeBytes(address: bigint, source: ArrayBufferView): void {
  const pointer = Deno.UnsafePointer.create(address);
  if (source.byteLength === 0 || pointer === null) return;
  const target = new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(pointer, source.byteLength));
  target.set(new Uint8Array(source.buffer, source.byteOffset, source.byteLength));
}

/** Copies bytes at an address to a new buffer. */
export function readBytes(address: bigint, byteLength: number): ArrayBuffer {
  const copy = new ArrayBuffer(byteLength);
  const pointer = Deno.UnsafePointer.create(address);
  if (byteLength > 0 && pointer !== null) Deno.UnsafePointerView.copyInto(pointer, new Uint8Array(copy));
  return copy;
}

const inUse = new Set<readonly unknown[]>();

/** Awaits a call on another thread and keeps what it works on from being collected until then. */
export async function whileKept<T>(kept: readonly unknown[], call: Promise<T>): Promise<T> {
  inUse.add(kept);
  try {
    return await call;
  } finally {
    inUse.delete(kept);
  }
}
