/**
 * The demo: a server, an agent and three workloads, started in order, kept running, told about as things happen, and
 * stopped in order. Nothing here is special to it: the programs are run as an operator runs them.
 */
import { readFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { loadServices } from '../../proto/load.ts';
import { systemClock } from '../../runtime/clock.ts';
import { createRpcClient } from '../../runtime/rpc/call.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { exitCodes, type Io } from '../command.ts';
import { freePort, type Memory, type Place, recall, remember } from './place.ts';
import { giveOwnPath, type Program, startProgram, steepleProgram, stopLeftovers, workloadProgram } from './programs.ts';
import { demoFile, type DemoLine, demoServices, hasAgent, registerWorkloads, type Role, roles, trustDomain, writeBundle, writeToken } from './register.ts';
import { credentialOf, happened, tell } from './tell.ts';

/** What the agent ends with when only a new token helps. */
const mustRejoin = 4;
const readyMs = 30_000;
const pauseMs = 1_000;
/** A program that ends sooner than this does so every time. */
const tooSoonMs = 5_000;

const workloadLine = z.object({ what: z.string(), more: z.string() });

interface Stage {
  readonly place: Place;
  readonly io: Io;
  /** Ends what is running; aborted by Ctrl-C, and when something cannot go on. */
  readonly stop: AbortController;
  readonly ports: { readonly server: number; readonly beta: number };
  readonly running: Map<string, Program>;
  readonly say: (who: string, what: string, more: string) => void;
}

/** Runs until `io.signal` aborts. Exit code 0 then; throws what kept it from going on. */
export async function runDemo(place: Place, io: Io): Promise<number> {
  const memory = await recall(place);
  const stop = new AbortController();
  const onAbort = (): void => stop.abort(io.signal.reason);
  io.signal.addEventListener('abort', onAbort, { once: true });
  io.onHangup(onAbort);
  if (io.signal.aborted) onAbort();
  const say = (who: string, what: string, more: string): void => io.out(happened(systemClock.now(), who, what, more));
  const left = await stopLeftovers(memory.started, io.kill);
  if (left > 0) say('demo', 'stopped', `${left} programs of the last demo, which was ended before it could do so`);
  const ports = { server: await freePort(memory.serverPort), beta: await freePort(memory.betaPort) };
  const stage: Stage = { place, io, stop, ports, running: new Map(), say };
  const client = createRpcClient({ clock: systemClock, address: `unix:${place.sockets.server}` });
  const line: DemoLine = { client, services: loadServices(...demoServices), signal: stop.signal };
  const tasks: Promise<void>[] = [];
  let failure: Error | undefined;
  const fail = (error: unknown): void => {
    if (!stop.signal.aborted) failure = error instanceof Error ? error : new Error('the demo failed', { cause: error });
    stop.abort(error);
  };
  const keep = (task: Promise<void>): void => {
    tasks.push(task.catch(fail));
  };
  try {
    say('demo', 'starts', `in ${place.directory}`);
    keep(keepServer(stage));
    await healthy(stage, 'server', place.sockets.server);
    say('server', 'ready', `on 127.0.0.1 port ${ports.server}, trust domain ${trustDomain}`);
    keep(followRecord(stage, line));
    await registerWorkloads(line, (role) => workloadPath(stage, role), userInfo().uid);
    await writeBundle(line, demoFile(place.directory, 'bundle.pem'));
    if (!(await hasAgent(line))) await writeToken(line, tokenFile(stage));
    keep(keepAgent(stage, line));
    await healthy(stage, 'agent', place.sockets.agent);
    say('agent', 'ready', `on ${place.sockets.agent}`);
    for (const role of roles) await giveOwnPath(io.execPath, workloadPath(stage, role));
    const listening = Promise.withResolvers<void>();
    keep(keepRunning(stage, 'beta', () => startWorkload(stage, 'beta', listening.resolve)));
    await Promise.race([listening.promise, ended(stop.signal)]);
    for (const role of ['alpha', 'mallory'] as const) keep(keepRunning(stage, role, () => startWorkload(stage, role)));
    await ended(stop.signal);
  } catch (error) {
    fail(error);
  } finally {
    client.close();
    await stopAll(stage);
    await Promise.all(tasks);
    await remember(place, { serverPort: ports.server, betaPort: ports.beta, started: [] });
  }
  if (failure !== undefined && !io.signal.aborted) throw failure;
  say('demo', 'ended', 'everything is stopped; running it again goes on from here');
  return exitCodes.ok;
}

function keepServer(stage: Stage): Promise<void> {
  const { place, ports } = stage;
  return keepRunning(stage, 'server', () =>
    startSteeple(stage, 'server', [
      `--trust-domain=${trustDomain}`,
      `--data-dir=${join(place.directory, 'server')}`,
      `--socket=${place.sockets.server}`,
      '--address=127.0.0.1',
      `--port=${ports.server}`,
    ]),
  );
}

function keepAgent(stage: Stage, line: DemoLine): Promise<void> {
  const { place, ports } = stage;
  const start = (): Promise<Program> =>
    startSteeple(stage, 'agent', [
      `--trust-domain=${trustDomain}`,
      `--data-dir=${join(place.directory, 'agent', 'data')}`,
      `--socket=${place.sockets.agent}`,
      `--admin-socket=${place.sockets.admin}`,
      '--server-address=127.0.0.1',
      `--server-port=${ports.server}`,
      `--trust-bundle=${demoFile(place.directory, 'bundle.pem')}`,
      `--join-token-file=${tokenFile(stage)}`,
    ]);
  return keepRunning(stage, 'agent', start, async (code) => {
    if (code !== mustRejoin) return false;
    stage.say('agent', 'rejoins', 'with a new token');
    await writeToken(line, tokenFile(stage));
    return true;
  });
}

/**
 * Starts a program again when it ends by itself, unless it does so at once.
 * @param mend told the exit code; answers whether the next start will be another one
 */
async function keepRunning(
  stage: Stage,
  name: string,
  start: () => Promise<Program>,
  mend: (code: number | string) => Promise<boolean> = () => Promise.resolve(false),
): Promise<void> {
  const { signal } = stage.stop;
  while (!signal.aborted) {
    const since = systemClock.monotonic();
    const program = await start();
    stage.running.set(name, program);
    await rememberStarted(stage);
    // Stopped meanwhile: whoever stops everything may have looked before this one was there.
    if (signal.aborted) await program.stop();
    const code = await program.ended;
    if (signal.aborted) return;
    stage.say(name, 'ended', typeof code === 'number' ? `with exit code ${code}` : `by ${code}`);
    const mended = await mend(code);
    if (!mended && systemClock.monotonic() - since < tooSoonMs) {
      throw new SpiffeError('internal', 'cli.demo.ended', `${name} does not keep running${await lastWords(stage, name)}`);
    }
    await systemClock.sleep(pauseMs, signal).catch(() => undefined);
  }
}

function startSteeple({ place, io }: Stage, role: 'server' | 'agent', flags: readonly string[]): Promise<Program> {
  return startProgram({ command: [io.execPath, steepleProgram(), role, 'run', ...flags], env: io.env, output: logFile(place, role) });
}

/** From a path of its own, with nothing but the address of the Workload API. */
function startWorkload(stage: Stage, role: Role, listening?: () => void): Promise<Program> {
  return startProgram({
    command: [workloadPath(stage, role), workloadProgram(), role, String(stage.ports.beta)],
    env: { SPIFFE_ENDPOINT_SOCKET: `unix://${stage.place.sockets.agent}` },
    output(text) {
      const said = readLine(text);
      if (said?.what === 'listening') listening?.();
      stage.say(role, said?.what ?? 'says', said?.more ?? text);
    },
  });
}

function readLine(text: string): z.output<typeof workloadLine> | undefined {
  try {
    return workloadLine.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}

/** Tells what the server records, from now on, also after it was started again. */
async function followRecord(stage: Stage, { client, services, signal }: DemoLine): Promise<void> {
  const { TailAudit, GetCredential } = services['steeple.operator.v1.Operator'];
  let last = 0;
  while (!signal.aborted) {
    try {
      for await (const event of client.serverStream(TailAudit, { last: last === 0 ? 0 : 50 }, { signal })) {
        if (Number(event.number) <= last) continue;
        last = Number(event.number);
        const id = event.type === 'workload.delivered' || event.type === 'workload.rotated' ? credentialOf(event) : undefined;
        const credential = id === undefined ? undefined : await client.unary(GetCredential, { id }, { signal }).catch(() => undefined);
        const told = tell(event, credential);
        if (told !== undefined) stage.io.out(happened(Number(event.at_ms), told.who, told.what, told.more));
      }
    } catch (error) {
      if (!(error instanceof SpiffeError)) throw error;
    }
    await systemClock.sleep(pauseMs, signal).catch(() => undefined);
  }
}

/** Waits until a program says over gRPC health that it serves. @throws unavailable `cli.demo.not-ready`, or why it stopped */
async function healthy(stage: Stage, name: string, socket: string): Promise<void> {
  const { signal } = stage.stop;
  const { Check } = loadServices('grpc.health.v1.Health')['grpc.health.v1.Health'];
  const until = systemClock.monotonic() + readyMs;
  while (systemClock.monotonic() < until) {
    signal.throwIfAborted();
    // A client of its own each time: one that failed pauses before it connects again.
    const client = createRpcClient({ clock: systemClock, address: `unix:${socket}` });
    try {
      if ((await client.unary(Check, {}, { signal, deadlineMs: 2_000 })).status === 'SERVING') return;
    } catch (error) {
      if (!(error instanceof SpiffeError)) throw error;
    } finally {
      client.close();
    }
    await systemClock.sleep(50, signal);
  }
  throw new SpiffeError('unavailable', 'cli.demo.not-ready', `${name} is not ready after ${readyMs / 1000} s${await lastWords(stage, name)}`);
}

/** Those that use others first; each has a little time to end by itself. */
async function stopAll({ running }: Stage): Promise<void> {
  const stop = async (names: readonly string[]): Promise<void> => {
    await Promise.all(names.map(async (name) => running.get(name)?.stop()));
  };
  await stop(['alpha', 'beta', 'mallory']);
  await stop(['agent']);
  await stop(['server']);
}

async function rememberStarted({ place, ports, running }: Stage): Promise<void> {
  const started: Memory['started'] = [...running.values()].filter(({ alive }) => alive).map(({ pid, startTime }) => ({ pid, startTime }));
  await remember(place, { serverPort: ports.server, betaPort: ports.beta, started });
}

async function lastWords({ place }: Stage, name: string): Promise<string> {
  if (name !== 'server' && name !== 'agent') return '';
  const text = await readFile(logFile(place, name), 'utf8').catch(() => '');
  return `; the end of ${logFile(place, name)}:\n${text.trimEnd().split('\n').slice(-5).join('\n')}`;
}

function logFile(place: Place, name: 'server' | 'agent'): string {
  return join(place.directory, `${name}.log`);
}

function tokenFile({ place }: Stage): string {
  return demoFile(place.directory, 'token');
}

function workloadPath({ place }: Stage, role: Role): string {
  return join(place.directory, 'demo', role, 'node');
}

function ended(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
