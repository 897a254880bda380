/**
 * Runs command lines as the program does, in this process, against scripted services on Unix sockets. What the services
 * answer is the test's.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from '../../cli/main.ts';
import { systemClock } from '../../runtime/clock.ts';
import type { RpcService } from '../../runtime/rpc/handlers.ts';
import { createRpcServer } from '../../runtime/rpc/serve.ts';
import { SpiffeError } from '../../spiffe/errors.ts';

export interface Finished {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export interface CommandLine {
  readonly input?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly signal?: AbortSignal;
  /** Sees output as it comes. */
  readonly onOut?: (text: string) => void;
}

/** @param line words, the program's own name left out */
export async function steeple(line: readonly string[], { input = '', env = {}, signal, onOut }: CommandLine = {}): Promise<Finished> {
  let out = '';
  let err = '';
  const code = await run(line, {
    out: (text) => {
      out += text;
      onOut?.(text);
    },
    err: (text) => (err += text),
    input: () => Promise.resolve(input),
    isTerminal: false,
    columns: 80,
    env,
    signal: signal ?? new AbortController().signal,
    onHangup: () => undefined,
    execPath: process.execPath,
    kill: () => {
      throw new SpiffeError('internal', 'test.kill', 'no command of these tests ends processes');
    },
  });
  return { code, out, err };
}

export interface ScriptedSocket extends AsyncDisposable {
  readonly path: string;
  readonly directory: string;
}

/** Serves until it is disposed of. */
export async function serveOnSocket(...services: readonly RpcService<Socket>[]): Promise<ScriptedSocket> {
  const directory = await mkdtemp(join(tmpdir(), 'steeple-cli-'));
  const path = join(directory, 'api.sock');
  const server = createRpcServer<Socket>({ clock: systemClock, services });
  const listener = createServer((socket) => server.inject(socket, socket));
  await new Promise<void>((resolve) => {
    listener.listen(path, resolve);
  });
  return {
    path,
    directory,
    async [Symbol.asyncDispose]() {
      await server.close(50);
      await new Promise((resolve) => listener.close(resolve));
      await rm(directory, { recursive: true, force: true });
    },
  };
}
