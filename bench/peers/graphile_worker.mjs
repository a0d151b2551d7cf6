// graphile-worker. The tuned settings are the settings of its own performance tests: local queue, batched
// completion.
import { readFileSync } from "node:fs";
import { Logger, makeWorkerUtils, run, runMigrations } from "graphile-worker";
import { main } from "./driver.mjs";

const { version } = JSON.parse(readFileSync(new URL("./node_modules/graphile-worker/package.json", import.meta.url)));
const TUNED = {
  concurrency: 24,
  maxPoolSize: 25,
  preset: { worker: { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
};
const JOBS = "graphile_worker._private_jobs";
const logger = new Logger(() => () => {}); // a log line for each job would affect the measurement
let utils;

await main({
  unfinished: `select count(*) from ${JOBS} where run_at <= now()`,
  describe: () => ({ version, settings: { default: {}, tuned: { concurrency: 24, ...TUNED.preset.worker } } }),
  setup: (connectionString) => runMigrations({ connectionString, logger }),
  async open(connectionString) {
    utils = await makeWorkerUtils({ connectionString, logger });
  },
  close: () => utils.release(),
  enqueue: (i) => utils.addJob("noop", { i }),
  enqueueMany: (numbers, priorities) =>
    utils.addJobs(numbers.map((i) => ({ identifier: "noop", payload: { i }, priority: i % priorities }))),
  // graphile-worker deletes finished jobs, so only future jobs are inserted.
  insertRows: (finishedCount, futureCount) =>
    utils.withPgClient(async (client) => {
      // The row of the task is created with its first job, or by its first worker.
      await client.query("insert into graphile_worker._private_tasks (identifier) values ('noop') on conflict do nothing");
      await client.query(
        `insert into ${JOBS} (task_id, payload, run_at)
         select (select id from graphile_worker._private_tasks where identifier = 'noop'), '{}', now() + interval '1 day'
         from generate_series(1, $1::integer)`,
        [futureCount],
      );
    }),
  async work(connectionString, handle, tuned) {
    const runner = await run({
      connectionString,
      logger,
      noHandleSignals: true,
      taskList: { noop: async (payload) => handle(payload.i) },
      ...(tuned ? TUNED : {}),
    });
    return () => runner.stop();
  },
});
