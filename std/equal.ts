/**
 * Deep equality as `@std/assert` defines it.
 *
 * @module
 */

/**
 * Whether two values are deeply equal: same prototype, own enumerable properties, set members, map entries and bytes.
 * Numbers compare by `Object.is`: `NaN` equals `NaN`, `0` and `-0` differ.
 */
export function equal(a: unknown, b: unknown): boolean {
  return compare(a, b, new Map());
}

function compare(a: unknown, b: unknown, seen: Map<unknown, unknown>): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) {
    return a === b && typeof a !== "number";
  }
  if (
    Object.getPrototypeOf(a) !== Object.getPrototypeOf(b) && (a.constructor ?? Object) !== (b.constructor ?? Object)
  ) {
    return false;
  }
  if (seen.get(a) === b) return true;
  seen.set(a, b);
  if (a instanceof Date && b instanceof Date) return Object.is(a.getTime(), b.getTime());
  if (a instanceof RegExp && b instanceof RegExp) return String(a) === String(b);
  if (a instanceof URL && b instanceof URL) return a.href === b.href;
  if (a instanceof WeakMap || a instanceof WeakSet || a instanceof WeakRef || a instanceof Promise) return false;
  if (a instanceof Error && b instanceof Error && (a.message !== b.message || a.name !== b.name)) return false;
  if (a instanceof ArrayBuffer && b instanceof ArrayBuffer) return sameList(new Uint8Array(a), new Uint8Array(b));
  if (a instanceof DataView && b instanceof DataView) {
    const bytes = (view: DataView) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
    return sameList(bytes(a), bytes(b));
  }
  if (ArrayBuffer.isView(a) && ArrayBuffer.isView(b)) {
    return sameList(a as unknown as ArrayLike<number>, b as unknown as ArrayLike<number>);
  }
  if (a instanceof Set && b instanceof Set) return sameSet(a, b, seen);
  if (a instanceof Map && b instanceof Map) return sameMap(a, b, seen);
  if (Array.isArray(a) && Array.isArray(b) && a.length !== b.length) return false;
  const keys = (value: object) =>
    Reflect.ownKeys(value).filter((key) => Object.prototype.propertyIsEnumerable.call(value, key));
  const keysA = keys(a);
  if (keysA.length !== keys(b).length) return false;
  return keysA.every((key) =>
    Object.hasOwn(b, key) &&
    compare((a as Record<PropertyKey, unknown>)[key], (b as Record<PropertyKey, unknown>)[key], seen)
  );
}

function sameList(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (!Object.is(a[i], b[i])) return false;
  return true;
}

function sameSet(a: Set<unknown>, b: Set<unknown>, seen: Map<unknown, unknown>): boolean {
  if (a.size !== b.size) return false;
  const rest = [...b];
  for (const value of a) {
    const at = b.has(value) ? rest.indexOf(value) : rest.findIndex((other) => compare(value, other, new Map(seen)));
    if (at < 0) return false;
    rest.splice(at, 1);
  }
  return true;
}

function sameMap(a: Map<unknown, unknown>, b: Map<unknown, unknown>, seen: Map<unknown, unknown>): boolean {
  if (a.size !== b.size) return false;
  const rest = [...b];
  for (const [key, value] of a) {
    const at = rest.findIndex(([otherKey, other]) =>
      compare(key, otherKey, new Map(seen)) && compare(value, other, new Map(seen))
    );
    if (at < 0) return false;
    rest.splice(at, 1);
  }
  return true;
}
