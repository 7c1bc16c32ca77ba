/**
 * Shapes of operators that move, copy or make elements.
 *
 * @module
 */
import { dtypeOf } from "./dtype.ts";
import { broadcast, type InferenceContext, normalizeAxis, numberAttribute, required, type Rule } from "./infer_rule.ts";
import type { Attribute, AttributeTensor, Dim } from "./types.ts";

/** Product of dimensions as a number and the names that it has beside. */
function product(dims: readonly Dim[]): { number: number; names: string[] } {
  let number = 1;
  const names: string[] = [];
  for (const dim of dims) {
    if (typeof dim === "number") number *= dim;
    else names.push(...dim.split("*").filter((part) => (/^\d+$/.test(part) ? (number *= Number(part), false) : true)));
  }
  return { number, names };
}

/** The dimension that −1 stands for: elements of `from` over those of `known`. */
function remaining(c: InferenceContext, from: readonly Dim[], known: readonly Dim[]): Dim {
  const all = product(from), part = product(known);
  for (const name of part.names) {
    const at = all.names.indexOf(name);
    if (at < 0) return c.fresh();
    all.names.splice(at, 1);
  }
  if (part.number === 0 || all.number % part.number !== 0) {
    if (all.names.length > 0) return c.fresh();
    throw new RangeError(`Cannot reshape [${from.join(", ")}] to [${known.join(", ")}, -1]`);
  }
  const factor = all.number / part.number;
  if (all.names.length === 0) return factor;
  return factor === 1 ? all.names.join("*") : [factor, ...all.names].join("*");
}

/** Length of a 1-D integer value when only that is known, as that many fresh dimensions. */
function freshShape(c: InferenceContext, index: number): readonly Dim[] {
  const length = required(c, index).shape[0];
  if (typeof length !== "number") throw new TypeError(`Cannot infer the rank that ${c.type} gives: state its output`);
  return Array.from({ length }, () => c.fresh());
}

const reshape: Rule = (c) => {
  const x = required(c, 0);
  const wanted = c.integers(c.inputs[1]);
  if (wanted === undefined) return [{ dtype: x.dtype, shape: freshShape(c, 1) }];
  const copies = numberAttribute(c, "allowzero", 0) === 0;
  const shape = wanted.map((dim, axis) => (dim === 0 && copies ? x.shape[axis] : dim));
  const open = shape.indexOf(-1);
  if (open >= 0) shape[open] = remaining(c, x.shape, shape.filter((_, axis) => axis !== open));
  const before = product(x.shape), after = product(shape);
  if (before.names.length === 0 && after.names.length === 0 && before.number !== after.number) {
    throw new RangeError(`Cannot reshape ${x.name} of [${x.shape.join(", ")}] to [${wanted.join(", ")}]`);
  }
  return [{ dtype: x.dtype, shape }];
};

const transpose: Rule = (c) => {
  const x = required(c, 0);
  const order = c.attributes.perm as readonly number[] | undefined;
  if (order !== undefined && (order.length !== x.shape.length || new Set(order).size !== order.length)) {
    throw new RangeError(`Cannot transpose ${x.name} of [${x.shape.join(", ")}] in the order [${order.join(", ")}]`);
  }
  return [{ dtype: x.dtype, shape: order?.map((axis) => x.shape[axis]) ?? [...x.shape].reverse() }];
};

const concat: Rule = (c) => {
  const first = required(c, 0);
  const axis = normalizeAxis(numberAttribute(c, "axis", 0), first.shape.length, "Concat");
  const inputs = c.inputs.map((_, index) => required(c, index));
  const shape = first.shape.map((dim, at) => {
    if (at === axis) {
      const dims = inputs.map((input) => input.shape[axis]);
      const number = dims.reduce<number>((sum, each) => sum + (typeof each === "number" ? each : 0), 0);
      const names = dims.filter((each) => typeof each === "string");
      return names.length === 0 ? number : [...names, ...(number > 0 ? [number] : [])].join(" + ");
    }
    for (const input of inputs) {
      if (
        input.shape.length !== first.shape.length ||
        (typeof input.shape[at] === "number" && typeof dim === "number" && input.shape[at] !== dim)
      ) {
        throw new RangeError(
          `Cannot concatenate [${inputs.map((each) => each.shape.join(", ")).join("] and [")}] along ${axis}`,
        );
      }
    }
    return inputs.map((input) => input.shape[at]).find((each) => typeof each === "number") ?? dim;
  });
  return [{ dtype: first.dtype, shape }];
};

const split: Rule = (c) => {
  const x = required(c, 0);
  const axis = normalizeAxis(numberAttribute(c, "axis", 0), x.shape.length, "Split");
  const dim = x.shape[axis];
  let sizes = c.integers(c.inputs[1]);
  if (sizes === undefined) {
    const parts = numberAttribute(c, "num_outputs", 0);
    if (parts < 1) throw new TypeError("Cannot infer Split: neither its sizes nor num_outputs are known");
    const each = typeof dim === "number" ? Math.ceil(dim / parts) : 0;
    sizes = Array.from(
      { length: parts },
      (_, index) => typeof dim === "number" ? Math.min(each, dim - each * index) : c.fresh(),
    );
  }
  return sizes.map((size) => ({ dtype: x.dtype, shape: x.shape.map((each, at) => (at === axis ? size : each)) }));
};

const slice: Rule = (c) => {
  const x = required(c, 0);
  const starts = c.integers(c.inputs[1]), ends = c.integers(c.inputs[2]);
  const count = required(c, 1).shape[0] as number;
  const axes = c.inputs[3] === undefined ? Array.from({ length: count }, (_, axis) => axis) : c.integers(c.inputs[3]);
  const steps = c.inputs[4] === undefined ? Array.from({ length: count }, () => 1) : c.integers(c.inputs[4]);
  if (axes === undefined) return [{ dtype: x.dtype, shape: x.shape.map(() => c.fresh()) }];
  const shape = [...x.shape];
  axes.forEach((axis, index) => {
    const at = normalizeAxis(Number(axis), x.shape.length, "Slice");
    const dim = shape[at], start = starts?.[index], end = ends?.[index], step = steps?.[index];
    if (typeof start !== "number" || typeof end !== "number" || typeof step !== "number") shape[at] = c.fresh();
    else if (typeof dim === "number") {
      const clamp = (value: number) => {
        const counted = value < 0 ? value + dim : value;
        return step > 0 ? Math.min(Math.max(counted, 0), dim) : Math.min(Math.max(counted, -1), dim - 1);
      };
      const from = clamp(start), to = end <= -(2 ** 31) ? -1 : clamp(end);
      shape[at] = Math.max(0, Math.ceil((to - from) / step));
    } else shape[at] = start === 0 && end >= 2 ** 31 - 1 && step === 1 ? dim : c.fresh();
  });
  return [{ dtype: x.dtype, shape }];
};

const gather: Rule = (c) => {
  const x = required(c, 0), indices = required(c, 1);
  const axis = normalizeAxis(numberAttribute(c, "axis", 0), x.shape.length, "Gather");
  return [{ dtype: x.dtype, shape: [...x.shape.slice(0, axis), ...indices.shape, ...x.shape.slice(axis + 1)] }];
};

const gatherND: Rule = (c) => {
  const x = required(c, 0), indices = required(c, 1);
  const batch = numberAttribute(c, "batch_dims", 0), last = indices.shape[indices.shape.length - 1];
  if (typeof last !== "number") {
    throw new TypeError("Cannot infer GatherND: the last dimension of its indices is unknown");
  }
  return [{ dtype: x.dtype, shape: [...indices.shape.slice(0, -1), ...x.shape.slice(batch + last)] }];
};

const unsqueeze: Rule = (c) => {
  const x = required(c, 0), axes = c.integers(c.inputs[1]);
  if (axes === undefined) throw new TypeError("Cannot infer Unsqueeze: its axes are not constant");
  const rank = x.shape.length + axes.length;
  const at = new Set(axes.map((axis) => normalizeAxis(Number(axis), rank, "Unsqueeze")));
  const rest = [...x.shape];
  return [{ dtype: x.dtype, shape: Array.from({ length: rank }, (_, axis) => (at.has(axis) ? 1 : rest.shift()!)) }];
};

const squeeze: Rule = (c) => {
  const x = required(c, 0), axes = c.integers(c.inputs[1]);
  const at = axes?.map((axis) => normalizeAxis(Number(axis), x.shape.length, "Squeeze"));
  return [{
    dtype: x.dtype,
    shape: x.shape.filter((dim, axis) => (at === undefined ? dim !== 1 : !at.includes(axis))),
  }];
};

const expand: Rule = (c) => {
  const x = required(c, 0);
  return [{
    dtype: x.dtype,
    shape: broadcast("Expand", [x.shape, c.integers(c.inputs[1]) ?? freshShape(c, 1)], c.fresh),
  }];
};

const range: Rule = (c) => {
  const [start, limit, delta] = [0, 1, 2].map((index) => c.integers(c.inputs[index])?.[0]);
  const known = typeof start === "number" && typeof limit === "number" && typeof delta === "number";
  const length = known
    ? Math.max(0, Math.ceil((limit - start) / delta))
    : start === 0 && delta === 1 && limit
    ? limit
    : c.fresh();
  return [{ dtype: required(c, 0).dtype, shape: [length] }];
};

const tile: Rule = (c) => {
  const x = required(c, 0), repeats = c.integers(c.inputs[1]);
  const shape = x.shape.map((dim, axis) => {
    const repeat = repeats?.[axis];
    if (repeat === 1) return dim;
    return typeof dim === "number" && typeof repeat === "number"
      ? dim * repeat
      : dim === 1 && repeat
      ? repeat
      : c.fresh();
  });
  return [{ dtype: x.dtype, shape }];
};

const pad: Rule = (c) => {
  const x = required(c, 0), pads = c.integers(c.inputs[1]), rank = x.shape.length;
  const axes = c.inputs[3] === undefined ? x.shape.map((_, axis) => axis) : c.integers(c.inputs[3])?.map(Number);
  const shape = x.shape.map((dim, axis) => {
    if (pads === undefined || axes === undefined) return c.fresh();
    const at = axes.findIndex((each) => (each < 0 ? each + rank : each) === axis);
    if (at < 0) return dim;
    const before = pads[at], after = pads[at + axes.length];
    if (before === 0 && after === 0) return dim;
    return typeof dim === "number" && typeof before === "number" && typeof after === "number"
      ? dim + before + after
      : c.fresh();
  });
  return [{ dtype: x.dtype, shape }];
};

function isTensor(attribute: Attribute | undefined): attribute is AttributeTensor {
  return typeof attribute === "object" && "tensor" in attribute;
}

const likeFirst: Rule = (c) => [{ dtype: required(c, 0).dtype, shape: required(c, 0).shape }];
const randomType = (c: InferenceContext) => dtypeOf(numberAttribute(c, "dtype", 1));

/** Rules by operator. */
export const MOVEMENT_RULES: Readonly<Record<string, Rule>> = {
  Reshape: reshape,
  Transpose: transpose,
  Concat: concat,
  Split: split,
  Slice: slice,
  Gather: gather,
  GatherND: gatherND,
  GatherElements: (c) => [{ dtype: required(c, 0).dtype, shape: required(c, 1).shape }],
  ScatterElements: likeFirst,
  ScatterND: likeFirst,
  Unsqueeze: unsqueeze,
  Squeeze: squeeze,
  Expand: expand,
  Range: range,
  Tile: tile,
  Pad: pad,
  Cast: (c) => [{ dtype: dtypeOf(numberAttribute(c, "to", 1)), shape: required(c, 0).shape }],
  Shape: (c) => {
    const rank = required(c, 0).shape.length;
    const clamp = (value: number) => Math.min(Math.max(value < 0 ? value + rank : value, 0), rank);
    const start = clamp(numberAttribute(c, "start", 0)), end = clamp(numberAttribute(c, "end", rank));
    return [{ dtype: "int64", shape: [Math.max(0, end - start)] }];
  },
  Size: () => [{ dtype: "int64", shape: [] }],
  ConstantOfShape: (c) => {
    const value = c.attributes.value;
    return [{
      dtype: isTensor(value) ? value.tensor.dtype : "float32",
      shape: c.integers(c.inputs[0]) ?? freshShape(c, 0),
    }];
  },
  Constant: (c) => {
    const value = c.attributes.value;
    if (!isTensor(value)) throw new TypeError("Cannot infer Constant: only its tensor form is known");
    return [{ dtype: value.tensor.dtype, shape: value.tensor.shape }];
  },
  RandomNormal: (c) => [{ dtype: randomType(c), shape: c.attributes.shape as readonly number[] }],
  RandomUniform: (c) => [{ dtype: randomType(c), shape: c.attributes.shape as readonly number[] }],
  RandomNormalLike: likeFirst,
  RandomUniformLike: likeFirst,
  OneHot: (c) => {
    const indices = required(c, 0), axis = numberAttribute(c, "axis", -1);
    const at = axis < 0 ? axis + indices.shape.length + 1 : axis;
    const depth = c.integers(c.inputs[1])?.[0] ?? c.fresh();
    return [{ dtype: required(c, 2).dtype, shape: [...indices.shape.slice(0, at), depth, ...indices.shape.slice(at)] }];
  },
  NonZero: (c) => [{ dtype: "int64", shape: [required(c, 0).shape.length, c.fresh()] }],
  DequantizeLinear: (c) => [{ dtype: required(c, 1).dtype, shape: required(c, 0).shape }],
};
