/**
 * The order in which the linears of a block are compressed.
 *
 * @module
 */
import type { LinearDescription } from "../model/types.ts";

/** Last parts of roles, first to last: the order of the reference (arXiv 2505.11076), with joined projections in place. */
const ORDER = ["q_proj", "qkv_proj", "v_proj", "o_proj", "k_proj", "up_proj", "gate_up_proj", "gate_proj", "down_proj"];

/** Sorts linears into the order of compression; unknown roles come last, as they were. */
export function compressionOrder(linears: readonly LinearDescription[]): LinearDescription[] {
  const place = ({ role }: LinearDescription) => {
    const index = ORDER.indexOf(role.slice(role.lastIndexOf(".") + 1));
    return index < 0 ? ORDER.length : index;
  };
  return [...linears].sort((a, b) => place(a) - place(b));
}
