/**
 * Limits on what a process may have of memory, with what the machine offers. A limit of the address space does not work:
 * V8 reserves far more than it uses.
 *
 * @module
 */
import { join } from "node:path";

/** A way to start a process that may not have more than so many bytes. */
export interface MemoryLimit extends AsyncDisposable {
  /** For the table: what counts and who enforces it. */
  readonly kind: string;
  /** The command line that starts `command` under a limit. */
  wrap(command: readonly string[], bytes: number): string[];
  /** The limit that stands for a promise of so many resident bytes. */
  nearest(promisedBytes: number): number;
}

const CGROUP = "/sys/fs/cgroup";
/**
 * RLIMIT_DATA counts every private writable mapping, touched or not: stacks of 8 MiB for each thread, V8's reserves and ONNX
 * Runtime's arena. An idle process has this much beyond what is resident.
 */
const UNTOUCHED_BYTES = 1 << 30;

/** Runs a shell script, as Deno touches nothing under /sys without all permissions. */
async function shell(script: string): Promise<boolean> {
  const { success } = await new Deno.Command("sh", { args: ["-c", script], stdout: "null", stderr: "null" }).output();
  return success;
}

/** A control group of version 1 or 2 whose memory is limited; `undefined` where none can be made. */
async function cgroupLimit(): Promise<MemoryLimit | undefined> {
  for (
    const { kind, parent, memory, swap } of [
      { kind: "a cgroup v2", parent: CGROUP, memory: "memory.max", swap: "memory.swap.max" },
      {
        kind: "a cgroup v1",
        parent: join(CGROUP, "memory"),
        memory: "memory.limit_in_bytes",
        swap: "memory.memsw.limit_in_bytes",
      },
    ]
  ) {
    const group = join(parent, `dbf-bench-${Deno.pid}`);
    // A group without the memory controller has no such file.
    if (!await shell(`mkdir ${group} && { test -w ${group}/${memory} || { rmdir ${group}; false; }; }`)) continue;
    return {
      kind,
      nearest: (bytes) => bytes,
      wrap(command, bytes) {
        // Swap, where it is counted, gets nothing: v2 counts it by itself, v1 together with memory. A new limit of v1 must
        // not be above the old one of both together, nor one of both below that of memory.
        const both = memory === "memory.max" ? 0 : bytes;
        const lift = memory === "memory.max" ? "true" : `echo -1 > ${group}/${swap} 2>/dev/null; true`;
        const script =
          `{ ${lift}; } && echo ${bytes} > ${group}/${memory} && { echo ${both} > ${group}/${swap} 2>/dev/null; true; } ` +
          `&& echo $$ > ${group}/cgroup.procs && exec "$@"`;
        return ["sh", "-c", script, "sh", ...command];
      },
      async [Symbol.asyncDispose]() {
        await shell(`rmdir ${group}`);
      },
    };
  }
  return undefined;
}

/** `prlimit --data`, which needs no rights; `undefined` where it is absent. */
async function dataSizeLimit(): Promise<MemoryLimit | undefined> {
  const { success } = await new Deno.Command("prlimit", { args: ["--data=4294967296", "true"], stderr: "null" })
    .output().catch(() => ({ success: false }));
  if (!success) return undefined;
  return {
    kind: "a data-size limit",
    nearest: (bytes) => bytes + UNTOUCHED_BYTES,
    wrap: (command, bytes) => ["prlimit", `--data=${bytes}`, ...command],
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/**
 * The strictest limit that this machine offers: a control group (resident memory, needs root), else the data size.
 *
 * @throws {Error} where there is neither.
 */
export async function findMemoryLimit(): Promise<MemoryLimit> {
  const found = Deno.build.os === "linux" ? await cgroupLimit() ?? await dataSizeLimit() : undefined;
  if (found !== undefined) return found;
  throw new Error(
    "Cannot run pipelines under a memory limit as this machine offers neither a control group with memory that may be " +
      "written (/sys/fs/cgroup, as root) nor prlimit: run elsewhere, or use --part large, which limits nothing",
  );
}
