/**
 * `deno task bench NAME [flags]`: measurements, each in a module of its own.
 *
 * @module
 */

/** Benches by name; each module exports `main(args)`. */
const BENCHES: Readonly<Record<string, () => Promise<{ main(args: readonly string[]): Promise<void> }>>> = {
  crash: () => import("./crash.ts"),
  factorize: () => import("./factorize.ts"),
  kernels: () => import("./kernels.ts"),
  memory: () => import("./memory.ts"),
  quality: () => import("./quality.ts"),
};

const [name, ...rest] = Deno.args;
if (name === undefined || !Object.hasOwn(BENCHES, name)) {
  console.error(`usage: deno task bench ${Object.keys(BENCHES).join("|")} [flags]`);
  Deno.exit(2);
}
await (await BENCHES[name]()).main(rest);
