/**
 * A stand-in for a container engine: Docker's API over a real Unix socket, for containers that exist only in its memory.
 * What it gets wrong, and when, is told to it.
 */
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';

export interface StandInContainer {
  readonly Id: string;
  State: Record<string, unknown>;
  Image: unknown;
  Config: Record<string, unknown>;
  readonly [more: string]: unknown;
}

/** Takes the answer into its own hands; false to let the engine give the right one. */
export type Fault = (incoming: IncomingMessage, outgoing: ServerResponse) => boolean;

export interface EngineApi extends AsyncDisposable {
  readonly socketPath: string;
  readonly containers: Map<string, StandInContainer>;
  /** The paths asked for, oldest first. */
  readonly asked: string[];
  /** What it speaks, by the minor number. `newest` is what it says of itself. */
  versions: { oldest: number; newest: string; podman?: boolean };
  fault: Fault | undefined;
  /** How many follow the events. */
  readonly followers: number;
  /** The most questions that were being answered at once. */
  readonly most: number;
  /** Adds a running container. */
  start(container?: Partial<Pick<StandInContainer, 'Id' | 'State' | 'Image' | 'Config'>>): StandInContainer;
  /** Sends one line to all who follow. */
  tell(line: string): void;
  event(action: string, id: string): void;
  /** Ends all streams of events. */
  hangUp(): void;
  /** Ends the engine, and leaves its place to another. */
  stop(): Promise<void>;
  /** Questions about one container. */
  questions(id: string): number;
}

export function newId(): string {
  return randomBytes(32).toString('hex');
}

export async function startEngineApi(at?: string): Promise<EngineApi> {
  const folder = at === undefined ? mkdtempSync(path.join(tmpdir(), 'engine-')) : undefined;
  const socketPath = at ?? path.join(folder ?? '', 'engine.sock');
  const containers = new Map<string, StandInContainer>();
  const asked: string[] = [];
  const followers = new Set<ServerResponse>();
  const open = new Set<Socket>();
  let running = 0;
  let most = 0;

  const answer = (outgoing: ServerResponse, status: number, body: unknown): void => {
    outgoing.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
  };
  const respond = (incoming: IncomingMessage, outgoing: ServerResponse): void => {
    const url = new URL(incoming.url ?? '', 'http://engine');
    if (url.pathname === '/_ping') {
      outgoing.setHeader('Api-Version', api.versions.newest);
      if (api.versions.podman === true) outgoing.setHeader('Libpod-Api-Version', '4.3.1');
      outgoing.end('OK');
      return undefined;
    }
    const [, minor = '', rest = ''] = /^\/v1\.(\d+)(\/.*)$/.exec(url.pathname) ?? [];
    const isSpoken = Number(minor) >= api.versions.oldest && Number(minor) <= Number(api.versions.newest.slice(2));
    if (!isSpoken) return answer(outgoing, 400, { message: `client version 1.${minor} is not spoken` });
    if (rest === '/events') {
      if (!url.searchParams.get('filters')?.includes('container')) return answer(outgoing, 400, { message: 'filters' });
      followers.add(outgoing);
      outgoing.on('close', () => followers.delete(outgoing));
      outgoing.writeHead(200).flushHeaders();
      return undefined;
    }
    const [, id = ''] = /^\/containers\/([^/]+)\/json$/.exec(rest) ?? [];
    const container = containers.get(id);
    return container === undefined ? answer(outgoing, 404, { message: `No such container: ${id}` }) : answer(outgoing, 200, container);
  };
  const server = createServer((incoming, outgoing) => {
    asked.push(incoming.url ?? '');
    most = Math.max(most, (running += 1));
    outgoing.on('close', () => (running -= 1)).on('error', () => undefined);
    if (api.fault?.(incoming, outgoing) !== true) respond(incoming, outgoing);
  });
  server.on('connection', (socket: Socket) => {
    open.add(socket);
    socket.on('close', () => open.delete(socket)).on('error', () => undefined);
  });

  const api: EngineApi = {
    socketPath,
    containers,
    asked,
    versions: { oldest: 12, newest: '1.41' },
    fault: undefined,
    get followers() {
      return followers.size;
    },
    get most() {
      return most;
    },
    start(container = {}) {
      const made: StandInContainer = {
        Id: newId(),
        State: { Running: true, Paused: false, Pid: 4242 },
        Image: `sha256:${'ab'.repeat(32)}`,
        Config: { Image: 'web:1', Labels: { app: 'web' }, Env: ['STAGE=test'] },
        ...container,
      };
      containers.set(made.Id, made);
      return made;
    },
    tell(line) {
      for (const follower of followers) follower.write(`${line}\n`);
    },
    event(action, id) {
      api.tell(JSON.stringify({ status: action, id, Type: 'container', Action: action, Actor: { ID: id, Attributes: {} } }));
    },
    hangUp() {
      for (const follower of followers) follower.destroy();
    },
    questions: (id) => asked.filter((url) => url.includes(id)).length,
    async stop() {
      for (const socket of open) socket.destroy();
      await new Promise<void>((resolve) => void server.close(() => resolve()));
    },
    async [Symbol.asyncDispose]() {
      await api.stop();
      if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
    },
  };
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  chmodSync(socketPath, 0o660);
  return api;
}
