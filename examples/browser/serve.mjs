// Bundles and serves the two pages, for your project or for the embedded stack.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import esbuild from "esbuild";

const { url, key } = findProject();
const context = await esbuild.context({
  absWorkingDir: import.meta.dirname,
  entryPoints: ["src/page.js", "src/react-page.jsx"],
  outdir: "build",
  bundle: true,
  format: "esm",
  jsx: "automatic",
  sourcemap: true,
  tsconfigRaw: {}, // not the tsconfig.json of a directory above, which may belong to another user
  define: {
    "import.meta.env.VITE_SUPABASE_URL": JSON.stringify(url),
    "import.meta.env.VITE_SUPABASE_PUBLISHABLE_KEY": JSON.stringify(key),
  },
});
const host = process.env.HOST ?? "127.0.0.1";
const { port } = await context.serve({
  servedir: import.meta.dirname,
  host,
  port: Number(process.env.PORT ?? 5173),
});
// Not localhost, which browsers look up as ::1 first, where another user may listen on this port.
const address = `http://${host.includes(":") ? `[${host}]` : host}:${port}`;
console.log(`Pictures of ${url}\n  plain JavaScript  ${address}/`);
console.log(`  React             ${address}/react.html`);

/** Returns the address and key of your project (SUPABASE_URL and a key), or of the embedded stack. */
function findProject() {
  const { SUPABASE_URL, SUPABASE_PUBLISHABLE_KEY, SUPABASE_ANON_KEY, API_URL, PUBLISHABLE_KEY } = process.env;
  // `picture-queue local env` sets the last two.
  const key = SUPABASE_PUBLISHABLE_KEY ?? SUPABASE_ANON_KEY ?? (SUPABASE_URL === API_URL ? PUBLISHABLE_KEY : undefined);
  if (SUPABASE_URL && key) return { url: SUPABASE_URL, key };
  if (SUPABASE_URL) fail("SUPABASE_URL needs a key: set SUPABASE_PUBLISHABLE_KEY. Do not use a secret key in a page.");
  const checkout = `${import.meta.dirname}/../../.venv/bin/picture-queue`;
  const program = existsSync(checkout) ? checkout : "picture-queue";
  try {
    const status = execFileSync(program, ["local", "status", "--json"], { stdio: ["ignore", "pipe", "ignore"] });
    const { API_URL, PUBLISHABLE_KEY } = JSON.parse(status);
    return { url: API_URL, key: PUBLISHABLE_KEY };
  } catch {
    fail("No stack is running. Start one with `picture-queue local start`, or set SUPABASE_URL\nand SUPABASE_PUBLISHABLE_KEY for your own project.");
  }
}

function fail(message) {
  console.error(message);
  process.exit(1);
}
