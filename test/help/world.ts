/**
 * A whole server and whole agents in this process, over real sockets, a real store and real worker threads, whose time is
 * a test's. Time moves in steps, and after each there is a moment of real time for what sockets and threads carry.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as realSleep } from 'node:timers/promises';
import { runAgentParts } from '../../agent/agent.ts';
import { parseAgentConfig } from '../../agent/config.ts';
import { WorkloadApi, type X509Context } from '../../client/index.ts';
import { bundleFromMessage } from '../../proto/convert/bundle.ts';
import { loadServices } from '../../proto/load.ts';
import { systemClock } from '../../runtime/clock.ts';
import { createHealth, type Health } from '../../runtime/health.ts';
import { silentLogger } from '../../runtime/log.ts';
import { createMetrics } from '../../runtime/metrics.ts';
import { createRpcClient, type RpcClient } from '../../runtime/rpc/call.ts';
import { createWatch } from '../../runtime/watch.ts';
import { parseServerConfig } from '../../server/config.ts';
import { runServerParts } from '../../server/server.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import { createTestClock, type TestClock } from './clock.ts';
import { freePort } from './site.ts';

export interface Part {
  readonly health: Health;
  /** What it ended with, once it has. */
  readonly over: Promise<unknown>;
  stop(): Promise<void>;
}

export interface WorldAgent extends Part {
  readonly id: string;
  /** A workload's updates, newest last; ends with the world. */
  watch(): readonly Update[];
}

/** A context, and when it came by the world's clock. */
export interface Update extends X509Context {
  readonly at: number;
}

export interface World extends AsyncDisposable {
  readonly clock: TestClock;
  /** Its operators' socket; calls wait in real time. */
  readonly operators: RpcClient;
  readonly services: typeof services;
  startServer(): Promise<Part>;
  joinAgent(name: string): Promise<WorldAgent>;
  /** An entry for this process below that agent. */
  createEntry(name: string, agentId: string): Promise<void>;
  bundle(): Promise<Bundle>;
  /** Moves time by `ms`, in steps of `stepMs`, and lets everything that became due happen. */
  pass(ms: number, stepMs?: number): Promise<void>;
  /** Moves time until it holds, slowly, for what waits in real time too, such as connections made again; fails after `limitMs`. */
  passUntil(holds: () => boolean, limitMs: number): Promise<void>;
  /** Lets things happen, with time standing still, until it holds; fails after ten real seconds. */
  until(holds: () => boolean | Promise<boolean>): Promise<void>;
}

const services = loadServices(
  'spire.api.server.agent.v1.Agent',
  'spire.api.server.bundle.v1.Bundle',
  'spire.api.server.entry.v1.Entry',
  'steeple.operator.v1.Operator',
);
const trustDomain = 'example.org';

/** @param serverConfig further keys of the server's file; YAML */
export async function createWorld(serverConfig = ''): Promise<World> {
  const directory = await mkdtemp('/tmp/steeple-');
  const clock = createTestClock();
  const port = await freePort();
  const cleanups: (() => Promise<void>)[] = [];
  const bundleFile = path.join(directory, 'bundle.pem');
  const operators = createRpcClient({ clock: systemClock, address: `unix:${directory}/server/api.sock` });

  const part = (run: (health: Health, signal: AbortSignal) => Promise<void>): Part => {
    const stop = new AbortController();
    const health = createHealth();
    const over = run(health, stop.signal).then(
      () => undefined,
      (error: unknown) => error,
    );
    const end = async (): Promise<void> => {
      stop.abort(new Error('the test stops it'));
      let done = false;
      void over.then(() => (done = true));
      // What it does last may wait for time to pass.
      while (!done) await world.pass(100);
    };
    cleanups.push(end);
    return { health, over, stop: end };
  };

  const world: World = {
    clock,
    operators,
    services,
    async startServer() {
      const config = parseServerConfig(`
trust_domain: ${trustDomain}
data_dir: ${directory}/server/data
socket_path: ${directory}/server/api.sock
listen: { address: 127.0.0.1, port: ${port} }
${serverConfig}`);
      let listening = false;
      const onListening = (): void => void (listening = true);
      const server = part((health, signal) =>
        runServerParts({ config, version: 'test', clock, log: silentLogger, metrics: createMetrics(), health, live: createWatch(config), onListening }, signal),
      );
      void server.over.then((error) => {
        if (!listening && error instanceof Error) throw error;
      });
      await world.until(() => listening);
      const { x509Authorities } = await world.bundle();
      await writeFile(bundleFile, formatPemCertificates(x509Authorities.map(({ certificate }) => certificate)));
      return server;
    },
    async joinAgent(name) {
      const { value: token } = await operators.unary(services['spire.api.server.agent.v1.Agent'].CreateJoinToken, { ttl: 600 });
      const base = path.join(directory, name);
      await mkdir(base);
      const config = parseAgentConfig(`
trust_domain: ${trustDomain}
server: { address: 127.0.0.1, port: ${port} }
data_dir: ${base}/data
socket_path: ${base}/public/api.sock
admin_socket_path: ${base}/private/admin.sock
trust_bundle: { path: ${bundleFile} }
attestor: { type: join_token, token: ${token} }
`);
      const metrics = createMetrics();
      const agent = part((health, signal) =>
        runAgentParts({ config, version: 'test', clock, random: () => 0.5, log: silentLogger, metrics, health, sealingKey: undefined }, signal),
      );
      await world.until(() => metrics.declarations().length > 0 && agent.health.state.value.ready);
      return {
        ...agent,
        id: `spiffe://${trustDomain}/spire/agent/join_token/${token}`,
        watch() {
          const updates: Update[] = [];
          const over = new AbortController();
          const api = new WorkloadApi({ address: `unix://${base}/public/api.sock`, clock: systemClock });
          const watching = (async () => {
            for await (const context of api.watchX509Context(over.signal)) updates.push({ ...context, at: clock.now() });
          })();
          cleanups.push(async () => {
            over.abort();
            await watching;
            api.close();
          });
          return updates;
        },
      };
    },
    async createEntry(name, agentId) {
      const entry = {
        spiffe_id: { trust_domain: trustDomain, path: name },
        parent_id: { trust_domain: trustDomain, path: agentId.slice(`spiffe://${trustDomain}`.length) },
        selectors: [{ type: 'unix', value: `uid:${String(process.getuid?.())}` }],
      };
      const { results } = await operators.unary(services['spire.api.server.entry.v1.Entry'].BatchCreateEntry, { entries: [entry] });
      if (results[0]?.status?.code !== 0) throw new Error(results[0]?.status?.message ?? 'no answer');
    },
    async bundle() {
      return bundleFromMessage(await operators.unary(services['spire.api.server.bundle.v1.Bundle'].GetBundle, {}));
    },
    async pass(ms, stepMs = 5_000) {
      for (let left = ms; left > 0; left -= stepMs) {
        await clock.advance(Math.min(left, stepMs));
        await realSleep(1);
      }
    },
    async passUntil(holds, limitMs) {
      const step = 200;
      for (let passed = 0; !holds(); passed += step) {
        if (passed > limitMs) throw new Error(`it did not come about within ${limitMs} ms`);
        await clock.advance(step);
        await realSleep(10);
      }
    },
    async until(holds) {
      const end = performance.now() + 10_000;
      while (!(await holds())) {
        if (performance.now() > end) throw new Error('it never came about');
        await clock.settle();
        await realSleep(2);
      }
    },
    async [Symbol.asyncDispose]() {
      for (const cleanup of cleanups.toReversed()) await cleanup();
      operators.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
  return world;
}
