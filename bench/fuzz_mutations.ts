/**
 * Seeded mutations of bytes and of JSON values.
 *
 * @module
 */

/** A small generator with a seed (mulberry32): numbers in [0, 1). */
export function randomFrom(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Values that break code which trusts its input. */
const HOSTILE: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  1,
  0.5,
  1e308,
  -1e308,
  2 ** 31,
  2 ** 53,
  2 ** 63,
  1e15,
  "",
  "0",
  "../../etc/passwd",
  "/etc/passwd",
  "a".repeat(5000),
  "\u0000",
  "\ud800",
  "__proto__",
  "constructor",
  [],
  {},
  [[]],
  [-1],
  [1e18, 1e18],
  [null],
  { toString: 1 },
  "(a+)+$",
  "%s%s%n",
  "F32",
  "I64",
  "BF16",
  "NaN",
];

/** Names that a field may be given; JSON text can carry any. */
const HOSTILE_KEYS = ["", "constructor", "toString", "hasOwnProperty", "length", "0", "-1", "../x", "\u0000"];

/** Flips, cuts, doubles or overwrites bytes. */
export function mutateBytes(bytes: Uint8Array, random: () => number): Uint8Array {
  const at = () => Math.floor(random() * bytes.length);
  switch (Math.floor(random() * 5)) {
    case 0: // cut
      return bytes.slice(0, at());
    case 1: { // drop a part
      const [from, to] = [at(), at()].sort((a, b) => a - b);
      return Uint8Array.from([...bytes.subarray(0, from), ...bytes.subarray(to)]);
    }
    case 2: { // repeat a part
      const from = at(), length = Math.min(bytes.length - from, 1 + Math.floor(random() * 64));
      return Uint8Array.from([...bytes.subarray(0, from + length), ...bytes.subarray(from)]);
    }
    default: { // overwrite some
      const copy = bytes.slice();
      for (let n = 1 + Math.floor(random() * 8); n > 0; n--) copy[at()] = Math.floor(random() * 256);
      return copy;
    }
  }
}

/** A copy of `value` in which one to three places are replaced, removed, renamed or added. */
export function mutateJson(value: unknown, random: () => number): unknown {
  const copy = structuredClone(value);
  for (let n = 1 + Math.floor(random() * 3); n > 0; n--) mutateOnce(copy, random);
  return copy;
}

function mutateOnce(root: unknown, random: () => number): void {
  const pick = <T>(items: readonly T[]) => items[Math.floor(random() * items.length)];
  let at = root as Record<string, unknown>;
  for (;;) {
    const keys = Object.keys(at);
    if (keys.length === 0) return;
    const key = pick(keys);
    const child = at[key];
    if (typeof child === "object" && child !== null && random() < 0.75) {
      at = child as Record<string, unknown>;
      continue;
    }
    const hostile = () => structuredClone(pick(HOSTILE));
    switch (Math.floor(random() * 6)) {
      case 0:
        if (Array.isArray(at)) at.splice(Number(key), 1);
        else delete at[key];
        return;
      case 1:
        if (Array.isArray(at)) at.push(hostile());
        else at[pick(HOSTILE_KEYS)] = child;
        return;
      case 2:
        at[key] = at[pick(keys)];
        return;
      case 3:
        at[key] = typeof child === "number" ? child * pick([-1, 2, 1e9, 0.1, 2 ** 40]) : hostile();
        return;
      default:
        at[key] = hostile();
        return;
    }
  }
}
