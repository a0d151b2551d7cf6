// The commands of every peer on Node; see driver.py.
import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

const BULK = 1000; // the number of jobs per call

const printJson = (object) => process.stdout.write(JSON.stringify(object) + "\n");
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const now = () => (performance.timeOrigin + performance.now()) / 1000;

/** Parses the command line and runs the command on a queue. */
export async function main(queue) {
  const options = Object.fromEntries(
    ["n", "priorities", "finished", "future", "gap", "file"].map((name) => [name, { type: "string" }]),
  );
  const { values, positionals } = parseArgs({
    options: { ...options, tuned: { type: "boolean" } },
    allowPositionals: true,
  });
  const [command] = positionals;
  const dsn = process.env.PEER_DSN; // not an option, because other users see command lines in ps
  const n = Number(values.n ?? 1000);
  if (command === "describe") {
    printJson({ unfinished: queue.unfinished, ...queue.describe() });
  } else if (command === "setup") {
    await queue.setup(dsn);
  } else if (command === "work") {
    await work(queue, dsn, values);
  } else {
    await queue.open(dsn);
    if (command === "bloat") {
      await queue.insertRows(Number(values.finished), Number(values.future));
    } else {
      printJson({ seconds: await enqueue(queue, command, n, values) });
    }
    await queue.close();
  }
  process.exit(0);
}

async function enqueue(queue, command, n, values) {
  if (command === "enqueue-one") for (let i = 0; i < 20; i++) await queue.enqueue(i);
  const began = performance.now();
  if (command === "enqueue-one") {
    for (let i = 0; i < n; i++) await queue.enqueue(i);
  } else if (command === "produce") {
    const committed = {};
    let due = performance.now();
    for (let i = 0; i < n; i++) {
      due += Number(values.gap) * 1000 * (0.5 + Math.random());
      await sleep(Math.max(0, due - performance.now()));
      await queue.enqueue(i);
      committed[i] = now();
    }
    writeFileSync(values.file, JSON.stringify(committed));
  } else {
    const priorities = Number(values.priorities ?? 1);
    for (let start = 0; start < n; start += BULK) {
      const count = Math.min(BULK, n - start);
      await queue.enqueueMany(Array.from({ length: count }, (_, i) => start + i), priorities);
    }
  }
  return (performance.now() - began) / 1000;
}

async function work(queue, dsn, values) {
  const numbers = [];
  const times = {};
  let first;
  const handle = (number) => {
    if (values.file !== undefined) times[number] = now();
    first ??= now();
    numbers.push(number);
  };
  printJson({ event: "ready", pid: process.pid });
  const lines = createInterface({ input: process.stdin });
  await new Promise((resolve) => lines.once("line", resolve));
  let reported = 0;
  setInterval(() => {
    if (numbers.length > reported) {
      reported = numbers.length;
      printJson({ event: "count", n: reported, first });
    }
  }, 20);
  const stop = await queue.work(dsn, handle, values.tuned ?? false);
  await new Promise((resolve) => process.once("SIGTERM", resolve));
  await stop();
  if (values.file !== undefined) writeFileSync(values.file, JSON.stringify(times));
  const usage = process.resourceUsage();
  // Read the usage before the results are counted, because counting also takes memory. The peak is
  // not maxRSS, which includes the memory of the parent process; see getrusage(2).
  const status = readFileSync("/proc/self/status", "utf8");
  const distinct = new Set(numbers);
  printJson({
    event: "end",
    n: numbers.length,
    distinct: distinct.size,
    highest: Math.max(-1, ...distinct),
    twice: numbers.length === distinct.size ? [] : [-1],
    max_rss_mb: Number(status.match(/VmHWM:\s+(\d+)/)[1]) / 1024,
    cpu_seconds: (usage.userCPUTime + usage.systemCPUTime) / 1e6,
  });
}
