/**
 * Mutations of protobuf messages that keep the wire format: fields are dropped, doubled, replaced, renumbered or nested.
 *
 * @module
 */

/** A field of a message: a number, or bytes that may be a message themselves. */
interface Field {
  number: number;
  wire: 0 | 1 | 2 | 5;
  varint: bigint;
  bytes: Uint8Array;
  children?: Field[];
}

/** Bytes that no message needs to be parsed beyond: names and shapes lie above. */
const MAX_DEPTH = 6;
/** Nested groups of a message that are put into each other: enough to overflow a reader that recurses without a limit. */
const NESTINGS = [2, 50, 2000];

function varintAt(bytes: Uint8Array, at: number): readonly [bigint, number] | undefined {
  let value = 0n;
  for (let shift = 0n; shift < 70n && at < bytes.length; shift += 7n) {
    const byte = bytes[at++];
    value |= BigInt(byte & 0x7f) << shift;
    if (byte < 0x80) return [BigInt.asUintN(64, value), at];
  }
  return undefined;
}

/** Fields of a message; `undefined` where the bytes are none. */
function parse(bytes: Uint8Array, depth = 0): Field[] | undefined {
  const fields: Field[] = [];
  for (let at = 0; at < bytes.length;) {
    const tag = varintAt(bytes, at);
    if (tag === undefined) return undefined;
    const number = Number(tag[0] >> 3n), wire = Number(tag[0] & 7n);
    at = tag[1];
    if (number < 1 || number > 1000 || (wire !== 0 && wire !== 1 && wire !== 2 && wire !== 5)) return undefined;
    const field: Field = { number, wire, varint: 0n, bytes: new Uint8Array(0) };
    const scalar = wire === 2 || wire === 0 ? varintAt(bytes, at) : undefined;
    if (wire === 1 || wire === 5) field.bytes = bytes.subarray(at, at += wire === 1 ? 8 : 4);
    else if (scalar === undefined) return undefined;
    else if (wire === 0) [field.varint, at] = scalar;
    else {
      const length = Number(scalar[0]);
      if (scalar[1] + length > bytes.length) return undefined;
      field.bytes = bytes.subarray(scalar[1], at = scalar[1] + length);
      if (length > 1 && depth < MAX_DEPTH) field.children = parse(field.bytes, depth + 1);
    }
    fields.push(field);
  }
  return fields;
}

function varint(value: bigint): number[] {
  const out: number[] = [];
  for (; value > 0x7fn; value >>= 7n) out.push(Number(value & 0x7fn) | 0x80);
  return [...out, Number(value)];
}

function encode(fields: readonly Field[]): Uint8Array {
  const parts: (Uint8Array | number[])[] = [];
  for (const { number, wire, varint: scalar, bytes, children } of fields) {
    parts.push(varint(BigInt(number) << 3n | BigInt(wire)));
    const content = children === undefined ? bytes : encode(children);
    if (wire === 0) parts.push(varint(scalar));
    else if (wire === 2) parts.push(varint(BigInt(content.length)), content);
    else parts.push(content);
  }
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Changes one to three fields of a message. */
export function mutateProtobuf(bytes: Uint8Array, random: () => number): Uint8Array {
  const root = parse(bytes);
  if (root === undefined) throw new TypeError("Cannot mutate these bytes as they are no protobuf message");
  const below = (limit: number) => Math.floor(random() * limit);
  for (let n = 1 + below(3); n > 0; n--) {
    let at = root;
    while (random() < 0.8) {
      const inner = at.flatMap(({ children }) => children === undefined || children.length === 0 ? [] : [children]);
      if (inner.length === 0) break;
      at = inner[below(inner.length)];
    }
    if (at.length === 0) continue;
    const index = below(at.length), field = at[index];
    switch (below(6)) {
      case 0:
        at.splice(index, 1);
        break;
      case 1:
        at.splice(index, 0, ...Array<Field>(1 + below(40)).fill(field));
        break;
      case 2:
        field.number = 1 + below(32);
        break;
      case 3: { // the field inside itself
        for (let depth = NESTINGS[below(NESTINGS.length)]; depth > 0 && field.wire === 2; depth--) {
          field.bytes = encode([{ ...field }]);
          field.children = undefined;
          if (field.bytes.length > 50_000) break;
        }
        break;
      }
      default:
        if (field.wire === 0) field.varint = [0n, 1n, 127n, 2n ** 31n, 2n ** 63n, 2n ** 64n - 1n][below(6)];
        else {
          field.children = undefined;
          field.bytes = Uint8Array.from(
            { length: field.wire === 2 ? below(200) : field.bytes.length },
            () => below(256),
          );
        }
    }
  }
  return encode(root);
}
