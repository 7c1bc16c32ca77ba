/**
 * Reverse-mode differentiation: gradients are nodes of the same graph, so they run wherever the graph runs.
 *
 * @module
 */
import type { Graph, Node, Value } from "./types.ts";
import { op, scalar, type VjpRule, zerosLike } from "./vjp/rule.ts";
import { ELEMENTWISE_RULES } from "./vjp/elementwise.ts";
import { MATMUL_RULES } from "./vjp/matmul.ts";
import { REDUCE_RULES } from "./vjp/reduce.ts";
import { SHAPE_RULES } from "./vjp/shape.ts";

/** Rules of ONNX's own operators, by type. Comparisons, Shape and the like have none: nothing flows through them. */
const RULES: ReadonlyMap<string, VjpRule> = new Map(Object.entries({
  ...ELEMENTWISE_RULES,
  ...MATMUL_RULES,
  ...REDUCE_RULES,
  ...SHAPE_RULES,
}));

/** Operators whose outputs do not depend on their inputs in a differentiable way. */
const FLAT = new Set([
  "Shape",
  "Equal",
  "Greater",
  "GreaterOrEqual",
  "Less",
  "LessOrEqual",
  "Not",
  "And",
  "Or",
  "ArgMax",
  "ConstantOfShape",
  "Range",
  "OneHot",
  "TopK",
  "Floor",
  "Round",
  "Ceil",
]);

/** A value and the gradient of the loss with respect to it. */
export interface Seed {
  readonly value: Value;
  /** Of the value's type and shape; absent means 1, for a scalar loss. */
  readonly gradient?: Value;
}

/** What {@linkcode differentiate} can be told beside what to differentiate. */
export interface DifferentiateOptions {
  /**
   * Straight-through estimators: the gradient of the value so named goes unchanged to the value given, which has its shape,
   * and not through the node that made it. `signs = where(latent >= 0, 1, -1)` is trained with `[[signs.name, latent]]`.
   * Bengio et al., arXiv 1308.3432.
   */
  readonly straightThrough?: ReadonlyMap<string, Value>;
  /** More rules, by operator type; they come before the built-in ones. */
  readonly rules?: ReadonlyMap<string, VjpRule>;
}

/**
 * Adds nodes that compute the gradients of `Σ ⟨seed.gradient, seed.value⟩` (of the loss itself for a scalar without a
 * gradient) with respect to each value of `wrt`, inputs or intermediate.
 *
 * @returns Gradients in the order of `wrt`, each of its value's type and shape; zeros where nothing depends on the value.
 * @throws {TypeError} when an operator on the way has no rule, or a rule needs a constant or a known dimension that is not there.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { createGraph } from "./graph.ts";
 * import { differentiate } from "./differentiate.ts";
 *
 * const g = createGraph("square");
 * const x = g.input("x", "float32", [3]);
 * const [loss] = g.node("ReduceSum", [g.node("Mul", [x, x])[0]], { keepdims: 0 });
 * const [dx] = differentiate(g, loss, [x]);
 * assertEquals(dx.shape, [3]);
 * ```
 */
export function differentiate(
  g: Graph,
  outputs: Value | readonly Seed[],
  wrt: readonly Value[],
  options: DifferentiateOptions = {},
): Value[] {
  const seeds = "name" in outputs ? [{ value: outputs }] : outputs as readonly Seed[];
  const straight = options.straightThrough ?? new Map<string, Value>();
  const nodes = [...g.nodes];
  const active = reachable(nodes, wrt, straight);
  const gradients = new Map<string, Value>();
  const add = (to: Value, gradient: Value) => {
    const sum = gradients.get(to.name);
    gradients.set(to.name, sum === undefined ? gradient : op(g, "Add", [sum, gradient]));
  };
  for (const { value, gradient } of seeds as readonly Seed[]) {
    if (gradient === undefined && value.shape.length > 0) {
      throw new TypeError(
        `Cannot differentiate "${value.name}" of shape [${value.shape}] as a loss: sum it to a scalar`,
      );
    }
    if (active.has(value.name)) add(value, gradient ?? scalar(g, 1, value.dtype));
  }
  for (const node of nodes.reverse()) {
    for (const output of node.outputs) {
      const latent = straight.get(output.name);
      const gradient = gradients.get(output.name);
      if (latent !== undefined && gradient !== undefined && active.has(latent.name)) add(latent, gradient);
    }
    const flowing = node.outputs.map((output) => straight.has(output.name) ? undefined : gradients.get(output.name));
    if (FLAT.has(node.type) || flowing.every((gradient) => gradient === undefined)) continue;
    const needed = (index: number) => node.inputs[index] !== undefined && active.has(node.inputs[index].name);
    if (!node.inputs.some((_, index) => needed(index))) continue;
    const rule = options.rules?.get(node.type) ?? (node.domain === "" ? RULES.get(node.type) : undefined);
    if (rule === undefined) {
      throw new TypeError(
        `Cannot differentiate ${node.domain}::${node.type} "${node.name}" as it has no rule: give one in options.rules`,
      );
    }
    const into = rule({ g, node, gradients: flowing, needed });
    into.forEach((gradient, index) => {
      if (gradient !== undefined && needed(index)) add(node.inputs[index]!, gradient);
    });
  }
  return wrt.map((value) => gradients.get(value.name) ?? zerosLike(g, value));
}

/** Names of values that depend on one of `wrt`, themselves included. */
function reachable(nodes: readonly Node[], wrt: readonly Value[], straight: ReadonlyMap<string, Value>): Set<string> {
  const active = new Set(wrt.map((value) => value.name));
  for (const node of nodes) {
    for (const output of node.outputs) {
      const latent = straight.get(output.name);
      const through = latent !== undefined
        ? active.has(latent.name)
        : !FLAT.has(node.type) && node.inputs.some((input) => input !== undefined && active.has(input.name));
      if (through) active.add(output.name);
    }
  }
  return active;
}
