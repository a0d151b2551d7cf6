// pg-boss. The tuned settings have several subscriptions, which poll independently, and batches so large
// that the delay of at least half a second between two polls does not affect the result.
import { readFileSync } from "node:fs";
import { PgBoss } from "pg-boss";
import { main } from "./driver.mjs";

const { version } = JSON.parse(readFileSync(new URL("./node_modules/pg-boss/package.json", import.meta.url)));
const TUNED = { batchSize: 5000, pollingIntervalSeconds: 0.5 };
const SUBSCRIPTIONS = 4;
let boss;

const connect = async (connectionString, more = {}) => {
  const boss = new PgBoss({ connectionString, supervise: false, schedule: false, ...more });
  boss.on("error", (error) => console.error(error.message));
  await boss.start();
  return boss;
};

await main({
  unfinished: "select count(*) from pgboss.job where name = 'noop' and state < 'completed' and start_after <= now()",
  describe: () => ({ version, settings: { default: {}, tuned: { ...TUNED, subscriptions: SUBSCRIPTIONS } } }),
  async setup(connectionString) {
    const boss = await connect(connectionString);
    await boss.createQueue("noop");
    await boss.stop();
  },
  async open(connectionString) {
    boss = await connect(connectionString, { migrate: false });
  },
  close: () => boss.stop({ graceful: false }),
  enqueue: (i) => boss.send("noop", { i }),
  enqueueMany: (numbers, priorityCount) =>
    boss.insert("noop", numbers.map((i) => ({ data: { i }, priority: i % priorityCount }))),
  async insertRows(finishedCount, futureCount) {
    const sql = `insert into pgboss.job (name, data, state, start_after, completed_on)
      select 'noop', '{}', $2::pgboss.job_state, now() + $3::interval, $4 from generate_series(1, $1::integer)`;
    await boss.getDb().executeSql(sql, [finishedCount, "completed", "0", new Date()]);
    await boss.getDb().executeSql(sql, [futureCount, "created", "1 day", null]);
  },
  async work(connectionString, handle, tuned) {
    const boss = await connect(connectionString, { migrate: false });
    for (let i = 0; i < (tuned ? SUBSCRIPTIONS : 1); i++) {
      await boss.work("noop", tuned ? TUNED : {}, async (jobs) => {
        for (const job of jobs) handle(job.data.i);
      });
    }
    return () => boss.stop({ graceful: true, timeout: 5000 });
  },
});
