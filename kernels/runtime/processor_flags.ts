/**
 * What this machine's processor can do, by Linux's names.
 *
 * @module
 */

const CPU_INFO = "/proc/cpuinfo";
/** A processor's part of the file has 2 kB, and only the first one's is needed. */
const READ_BYTES = 1 << 16;

/** The file, or its start; empty where there is none. Deno itself reads it only with all permissions, the C library with FFI's. */
function readCpuInfo(): string {
  if (Deno.build.os !== "linux") return "";
  try {
    return Deno.readTextFileSync(CPU_INFO);
  } catch {
    return Deno.permissions.querySync({ name: "ffi" }).state === "granted" ? readThroughLibc() : "";
  }
}

function readThroughLibc(): string {
  let libc;
  try {
    libc = Deno.dlopen("libc.so.6", {
      open: { parameters: ["buffer", "i32"], result: "i32" },
      read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
      close: { parameters: ["i32"], result: "i32" },
    });
  } catch {
    return ""; // another C library
  }
  const { open, read, close } = libc.symbols;
  try {
    const file = open(new TextEncoder().encode(`${CPU_INFO}\0`), 0);
    if (file < 0) return "";
    const bytes = new Uint8Array(READ_BYTES);
    let length = 0;
    for (let count = 1; count > 0 && length < bytes.length; length += Math.max(0, count)) {
      count = Number(read(file, bytes.subarray(length), BigInt(bytes.length - length)));
    }
    close(file);
    return new TextDecoder().decode(bytes.subarray(0, length));
  } finally {
    libc.close();
  }
}

/** Names of the first processor's instruction sets and features, e.g. `"avx2"`; empty where the system does not tell. */
export function processorFlags(): ReadonlySet<string> {
  return new Set(readCpuInfo().match(/^(?:flags|Features)\s*:(.*)$/m)?.[1].trim().split(/\s+/) ?? []);
}
