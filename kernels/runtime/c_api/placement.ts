/**
 * Where ONNX Runtime placed the nodes of a graph.
 *
 * @module
 */
import type { NodePlacement, Provider } from "../types.ts";
import type { Environment } from "./environment.ts";
import { newWords, textAt, wordsAt } from "./memory.ts";
import { check } from "./status.ts";

const PROVIDERS: Readonly<Record<string, Provider>> = {
  CPUExecutionProvider: "cpu",
  CUDAExecutionProvider: "cuda",
  WebGpuExecutionProvider: "webgpu",
};

/** Session configuration that makes ONNX Runtime remember placements. */
export const RECORD_PLACEMENT = "session.record_ep_graph_assignment_info";

/** Reads the placements of a session loaded with {@linkcode RECORD_PLACEMENT}, after graph rewriting. */
export function readPlacement({ api }: Environment, session: bigint): NodePlacement[] {
  const array = newWords(1).words;
  const count = newWords(1).words;
  const text = (status: bigint) => {
    check(api, status, "read node placements");
    return textAt(array[0]);
  };
  check(api, api.Session_GetEpGraphAssignmentInfo(session, array, count), "read node placements");
  return Array.from(wordsAt(array[0], Number(count[0]))).flatMap((subgraph) => {
    const ep = text(api.EpAssignedSubgraph_GetEpName(subgraph, array));
    check(api, api.EpAssignedSubgraph_GetNodes(subgraph, array, count), "read node placements");
    return Array.from(wordsAt(array[0], Number(count[0])), (node) => ({
      name: text(api.EpAssignedNode_GetName(node, array)),
      domain: text(api.EpAssignedNode_GetDomain(node, array)),
      operator: text(api.EpAssignedNode_GetOperatorType(node, array)),
      provider: PROVIDERS[ep] ?? ep,
    }));
  });
}

/**
 * Requires that nodes of these operator types exist and all lie on a provider.
 *
 * @throws {Error} that names the operator and where it is instead.
 */
export function requirePlacement(
  session: string,
  placements: readonly NodePlacement[],
  operators: readonly string[],
  provider: Provider,
): void {
  for (const operator of operators) {
    const nodes = placements.filter((node) => node.operator === operator);
    if (placements.length === 0) {
      throw new Error(
        `Cannot tell where ${operator} of ${session} is: ONNX Runtime recorded no placements on ${provider}, as WebGPU's provider reports none; load the graph without requirePlacement`,
      );
    }
    if (nodes.length === 0) {
      const present = [...new Set(placements.map((node) => node.operator))].sort().join(", ");
      throw new Error(
        `Cannot place ${operator} of ${session} on ${provider}: the loaded graph has no such node (a function without a native kernel is inlined); it has ${present}`,
      );
    }
    const astray = nodes.find((node) => node.provider !== provider);
    if (astray !== undefined) {
      throw new Error(
        `Cannot place ${operator} of ${session} on ${provider}: node "${astray.name}" was placed on ${astray.provider}`,
      );
    }
  }
}
