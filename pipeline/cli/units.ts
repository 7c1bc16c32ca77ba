/**
 * Numbers as people read them.
 *
 * @module
 */

/**
 * Bytes with a binary unit and three digits.
 *
 * @example
 * ```ts
 * import { assertEquals } from "@std/assert";
 * import { formatBytes } from "./units.ts";
 *
 * assertEquals([0, 1023, 1536, 5 * 2 ** 30].map(formatBytes), ["0 B", "1023 B", "1.50 KiB", "5.00 GiB"]);
 * ```
 */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : digits3(value)} ${units[unit]}`;
}

/** A count with a decimal unit: 1.35 G, 12.4 M, 960. */
export function formatCount(count: number): string {
  for (const [unit, size] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]] as const) {
    if (Math.abs(count) >= size) return `${digits3(count / size)} ${unit}`;
  }
  return `${Number.isInteger(count) ? count : digits3(count)}`;
}

/**
 * Seconds as 0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 4 d 3 h.
 *
 * @param seconds 0 or more.
 */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const pair = (big: number, bigUnit: string, small: number, smallUnit: string) =>
    small === 0 ? `${big} ${bigUnit}` : `${big} ${bigUnit} ${small} ${smallUnit}`;
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return pair(Math.floor(whole / 60), "min", whole % 60, "s");
  if (whole < 86400) return pair(Math.floor(whole / 3600), "h", Math.floor(whole % 3600 / 60), "min");
  return pair(Math.floor(whole / 86400), "d", Math.floor(whole % 86400 / 3600), "h");
}

/** Three significant digits, never in exponents. */
export function digits3(value: number): string {
  const size = Math.abs(value);
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  return value.toFixed(2);
}
