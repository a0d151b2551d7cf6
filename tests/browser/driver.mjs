// Drives Chromium for pytest. A request is a line of JSON on standard input: [id, target, method,
// arguments]. The response is a line on standard output: [id, value, error]. The targets `page`,
// `clock` and `context` are objects of Playwright; `driver` is defined below.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [modules, executablePath, ...flags] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)("playwright-core");
const FLAGS = [
  "--no-sandbox", // Chromium requires this flag if it runs as root
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const browser = await chromium.launch({ executablePath, args: [...FLAGS, ...flags] });
/** @type {Record<string, any>} */
const targets = { driver: { open, listFrames, waitFor, problems: () => problems } };
let frames = []; // the frames of the page: "sent", "received" or "closed", and the text
let problems = []; // the uncaught exceptions of the page

/** Opens a page with a new profile. */
async function open(options) {
  await targets.context?.close();
  [frames, problems] = [[], []];
  const context = await browser.newContext(options);
  await context.addInitScript(recordStates);
  const page = await context.newPage();
  page.on("pageerror", (error) => problems.push(String(error.stack ?? error)));
  page.on("websocket", (socket) => {
    socket.on("framesent", ({ payload }) => frames.push(["sent", String(payload)]));
    socket.on("framereceived", ({ payload }) => frames.push(["received", String(payload)]));
    socket.on("close", () => frames.push(["closed", ""]));
  });
  Object.assign(targets, { context, page, clock: page.clock });
}

/**
 * Waits until a JavaScript condition is true in the page. `page.waitForFunction` would evaluate the
 * text in the page, which the Content-Security-Policy of the pages forbids.
 */
async function waitFor(condition, timeout) {
  for (const end = Date.now() + timeout; ; await new Promise((resolve) => setTimeout(resolve, 30))) {
    try {
      if (await targets.page.evaluate(condition)) return;
    } catch (error) {
      // The page was loaded again in the meantime.
      if (!/context was destroyed|navigation/i.test(error.message)) throw error;
    }
    if (Date.now() > end) throw new Error(`timeout of ${timeout} ms: ${condition}`);
  }
}

/** Returns the frames of all sockets since the page was opened. */
function listFrames() {
  return frames;
}

/** Records the displayed states in `window.shown`, as [status, percent]. It runs in the page. */
function recordStates() {
  window.shown = [];
  new MutationObserver(() => {
    const status = document.querySelector("#stage")?.dataset.status;
    const progress = document.querySelector("#progress")?.value ?? 0;
    const [previous] = window.shown.slice(-1);
    if (status && (previous?.[0] !== status || previous[1] !== progress)) window.shown.push([status, progress]);
  }).observe(document, { subtree: true, childList: true, attributes: true });
}

async function handle([id, target, method, args]) {
  try {
    const value = await targets[target][method](...args);
    // Playwright's pages, handles and responses cannot be sent as JSON.
    const isPlain = value === null || typeof value !== "object" || [Array.prototype, Object.prototype].includes(Object.getPrototypeOf(value));
    respond([id, isPlain ? (value ?? null) : null, null]);
  } catch (error) {
    respond([id, null, String(error.message ?? error)]);
  }
}

const respond = (response) => process.stdout.write(JSON.stringify(response) + "\n");

for await (const line of createInterface({ input: process.stdin })) handle(JSON.parse(line));
await browser.close();
