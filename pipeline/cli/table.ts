/**
 * Plain tables: two spaces between columns, numbers to the right, no frame.
 *
 * @module
 */

/** A column of a table. */
export interface Column {
  readonly title: string;
  /** Default `"left"`. */
  readonly align?: "left" | "right";
}

/**
 * Renders rows under titles and a thin rule.
 *
 * @param columns One for each cell of a row.
 * @param rows Cells as text; a row `[]` becomes another rule.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { renderTable } from "./table.ts";
 *
 * const text = renderTable([{ title: "layer" }, { title: "k", align: "right" }], [["q", "96"], ["gate", "128"]]);
 * assertEquals(text, "layer    k\n──────────\nq       96\ngate   128");
 * ```
 */
export function renderTable(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const widths = columns.map(({ title }, index) =>
    Math.max(title.length, ...rows.map((row) => row[index]?.length ?? 0))
  );
  const line = (cells: readonly string[]) =>
    cells.map((cell, index) =>
      columns[index].align === "right" ? cell.padStart(widths[index]) : cell.padEnd(widths[index])
    ).join("  ").trimEnd();
  const rule = "─".repeat(widths.reduce((sum, width) => sum + width, 2 * (widths.length - 1)));
  return [
    line(columns.map(({ title }) => title)),
    rule,
    ...rows.map((row) => row.length === 0 ? rule : line(row)),
  ].join("\n");
}

/** Renders names and values, the values aligned. */
export function renderPairs(pairs: readonly (readonly [string, string])[]): string {
  const width = Math.max(...pairs.map(([name]) => name.length));
  return pairs.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join("\n");
}

/** What the bits of layers are, before scales and padding. */
export function codeBitsLabel(layers: readonly { readonly kind: string }[]): string {
  return layers.some(({ kind }) => kind === "nbits") ? "bits in signs and codes" : "sign bits";
}
