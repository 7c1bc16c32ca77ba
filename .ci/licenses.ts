/**
 * `deno task licenses`: what ships with dbf, from the lock file: package, version, license, whether it has an install
 * script (none is ever run). Fails when a license is missing or not known to allow shipping beside MIT code.
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ALLOWED = /^(MIT|ISC|0BSD|BSD-[23]-Clause|Apache-2\.0|\(Apache-2\.0 AND BSD-3-Clause\)|\(MIT OR CC0-1\.0\))$/;

const root = fileURLToPath(new URL("..", import.meta.url));
const lock: { npm: Record<string, { scripts?: boolean }> } = JSON.parse(
  await Deno.readTextFile(join(root, "deno.lock")),
);
let refused = 0;
for (const [key, { scripts }] of Object.entries(lock.npm).sort()) {
  const [, name, version] = /^(@?[^@]+)@([^_]+)/.exec(key)!;
  const folder = `${name.replaceAll("/", "+")}@${version}`;
  const file = join(root, "node_modules", ".deno", folder, "node_modules", name, "package.json");
  const { license }: { license?: string } = JSON.parse(await Deno.readTextFile(file));
  const good = license !== undefined && ALLOWED.test(license);
  if (!good) refused++;
  const notes = [good ? "" : "REFUSED", scripts ? "its install script is not run" : ""].filter(Boolean).join(", ");
  console.log(`${name} ${version}\t${license ?? "no license"}${notes && `\t${notes}`}`);
}
if (refused > 0) {
  console.error(`Cannot ship ${refused} packages under these licenses: replace them, or add the license to ALLOWED.`);
  Deno.exit(1);
}
