// Restate as a peer. `service` is the worker, a service of five journalled steps on an HTTP/2 endpoint; `load` is
// the driver, which calls it through the server's ingress and speaks the bench's lines (see bench/drive.py).
import { createInterface } from "node:readline";
import { appendFileSync } from "node:fs";
import { randomUUID } from "node:crypto";
import * as restate from "@restatedev/restate-sdk";

// The SDK is written for node 22; all that it misses in node 20 is this.
Promise.withResolvers ??= function () {
  const made = {};
  made.promise = new this((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
};

const STEPS = 5;
const EFFECT_MS = Number(process.env.BENCH_EFFECT_MS ?? "500");
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function serve(port) {
  const bench = restate.service({
    name: "bench",
    handlers: {
      plan: async (ctx, n) => {
        for (let i = 0; i < STEPS; i++) {
          const before = n;
          n = await ctx.run(`s${i + 1}`, async () => before + 1);
        }
        return n;
      },
      charge: async (ctx, item) =>
        ctx.run("charge", async () => {
          appendFileSync(process.env.BENCH_LEDGER, `call ${item}\n`);
          await sleep(EFFECT_MS);
          appendFileSync(process.env.BENCH_LEDGER, `end ${item}\n`);
          return item;
        }),
    },
  });
  await restate.serve({ services: [bench], port });
  process.stdout.write('{"ready": true}\n');
}

async function call(ingress) {
  const answer = await fetch(`${ingress}/bench/plan`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: "0",
  });
  const said = await answer.text();
  if (!answer.ok || said !== String(STEPS)) throw new Error(`${answer.status}: ${said}`);
}

async function round(ingress, { concurrency, seconds }) {
  const started = performance.now();
  const deadline = started + seconds * 1000;
  const latencies = [];
  const errors = [];
  let ended = started;
  const loop = async () => {
    while (performance.now() < deadline) {
      const begun = performance.now();
      try {
        await call(ingress);
        latencies.push(Number((performance.now() - begun).toFixed(3)));
      } catch (error) {
        errors.push(String(error.cause ?? error));
      }
      ended = performance.now();
    }
  };
  await Promise.all(Array.from({ length: concurrency }, loop));
  return {
    plans: latencies.length,
    wall_s: (ended - started) / 1000,
    latencies_ms: latencies,
    errors: errors.length,
    first_errors: errors.slice(0, 3),
  };
}

async function load(ingress) {
  process.stdout.write('{"ready": true}\n');
  for await (const line of createInterface({ input: process.stdin })) {
    process.stdout.write(JSON.stringify(await round(ingress, JSON.parse(line))) + "\n");
  }
}

async function send(ingress, items) {
  // One-way calls: the server answers when it has them.
  const ledger = process.env.BENCH_LEDGER;
  for (const item of items) {
    appendFileSync(ledger, `begin ${item}\n`);
    const answer = await fetch(`${ingress}/bench/charge/send`, {
      method: "POST",
      headers: { "content-type": "application/json", "idempotency-key": item || randomUUID() },
      body: JSON.stringify(item),
    });
    if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
    appendFileSync(ledger, `ack ${item}\n`);
  }
}

const [command, ...rest] = process.argv.slice(2);
if (command === "service") await serve(Number(rest[0]));
else if (command === "load") await load(rest[0]);
else if (command === "send") await send(rest[0], rest.slice(1));
else throw new Error(`unknown command ${command}`);
