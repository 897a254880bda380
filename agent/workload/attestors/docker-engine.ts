/**
 * The few questions put to one container engine that speaks Docker's API over a Unix socket: Docker itself, or Podman's
 * service. Whether its socket may be believed is checked before each; what the answers mean is left to `docker-facts.ts`.
 */
import { statSync } from 'node:fs';
import { untilAborted } from '../../../runtime/abort.ts';
import type { Clock } from '../../../runtime/clock.ts';
import { createHttpClient } from '../../../runtime/http.ts';
import type { HttpAnswer } from '../../../runtime/http.ts';
import { SpiffeError, isSpiffeError } from '../../../spiffe/errors.ts';

export interface EngineOptions {
  readonly clock: Clock;
  readonly socketPath: string;
  /** The user that the socket's file and the process listening on it must belong to. */
  readonly uid: number;
  /** For one question. */
  readonly deadlineMs: number;
}

/** `id` is the engine's word: not known to be any container's. */
export interface EngineEvent {
  readonly id: string;
  readonly action: string;
}

/** Whoever made it closes it. All throw what `HttpClient` throws, and denied `docker.socket.owner|writable`. */
export interface DockerEngine {
  readonly socketPath: string;
  /** As it called itself when it was asked last. */
  readonly kind: 'docker' | 'podman' | undefined;
  /**
   * The engine's own words about a container; undefined when it knows none with that id.
   * @throws unavailable `docker.engine.busy`, `docker.engine.status`; invalid `docker.answer.form`
   */
  inspect(id: string): Promise<Buffer | undefined>;
  /**
   * What happens to containers from now on; `onOpen` is called once nothing will be missed. Never ends by itself.
   * @throws as `inspect`; limited `docker.engine.flood`; the signal's reason
   */
  follow(signal: AbortSignal, onOpen: () => void): AsyncIterableIterator<EngineEvent>;
  close(): void;
}

const MAX_WAITING = 512;
const MAX_ANSWER_BYTES = 1024 * 1024;
/** An event repeats all labels of its container. */
const MAX_EVENT_BYTES = 4 * 1024 * 1024;
/** In a second, with what it costs to look at any event at all: some 4,000 of ordinary length. */
const MAX_FLOW_BYTES = 8 * 1024 * 1024;
const EVENT_COST_BYTES = 2048;
/** What is asked has not changed in all the time; newer engines no longer speak older versions. */
const PREFERRED_MINOR = 44;

interface Version {
  readonly prefix: string;
}

export function createDockerEngine(options: EngineOptions): DockerEngine {
  const { clock, socketPath, uid, deadlineMs } = options;
  const http = createHttpClient({ clock, endpoint: { socketPath, ownerUid: uid } });
  let version: Promise<Version> | undefined;
  /** It refused ours, so it is asked in its newest. */
  let isTooOld = false;
  let kind: DockerEngine['kind'];
  let waiting = 0;

  const ask = async (path: string): Promise<HttpAnswer> => {
    requireOwned(socketPath, uid);
    if (waiting >= MAX_WAITING) {
      throw new SpiffeError('unavailable', 'docker.engine.busy', 'too many questions wait for the engine');
    }
    waiting += 1;
    try {
      return await http.request({ path, deadlineMs, maxBytes: MAX_ANSWER_BYTES });
    } finally {
      waiting -= 1;
    }
  };
  const requireSpoken = (status: number): void => {
    if (status === 400) isTooOld = true;
    requireStatus(status, 200);
  };
  const learn = async (): Promise<Version> => {
    try {
      // Not `/version`, for which Podman starts half a dozen programs.
      const { status, headers } = await ask('/_ping');
      requireStatus(status, 200);
      const newest = minorOf(headers['api-version']);
      if (newest === undefined) throw malformed();
      kind = 'libpod-api-version' in headers ? 'podman' : 'docker';
      return { prefix: `/v1.${isTooOld ? newest : Math.min(newest, PREFERRED_MINOR)}` };
    } catch (error) {
      version = undefined;
      throw error;
    }
  };
  /** Asked once, and again after anything went wrong: it may be another engine by then. */
  const speak = (): Promise<Version> => (version ??= learn());

  async function* follow(signal: AbortSignal, onOpen: () => void): AsyncIterableIterator<EngineEvent> {
    const { prefix } = await untilAborted(speak(), signal);
    requireOwned(socketPath, uid);
    const filters = encodeURIComponent(JSON.stringify({ type: ['container'] }));
    const stream = await http.stream({ path: `${prefix}/events?filters=${filters}`, signal, deadlineMs });
    try {
      requireSpoken(stream.status);
      onOpen();
      let [since, flow] = [clock.monotonic(), 0];
      for await (const line of stream.lines(MAX_EVENT_BYTES)) {
        if (clock.monotonic() - since >= 1000) [since, flow] = [clock.monotonic(), 0];
        flow += line.length + EVENT_COST_BYTES;
        if (flow > MAX_FLOW_BYTES) {
          throw new SpiffeError('limited', 'docker.engine.flood', 'the engine tells more than is listened to');
        }
        const event = parseEvent(line);
        if (event !== undefined) yield event;
      }
    } finally {
      stream.close();
    }
    throw new SpiffeError('unavailable', 'docker.engine.events', 'the engine ended its stream of events');
  }

  return {
    socketPath,
    get kind() {
      return kind;
    },
    async inspect(id) {
      const { prefix } = await speak();
      try {
        const answer = await ask(`${prefix}/containers/${id}/json`);
        if (answer.status === 404) return undefined;
        requireSpoken(answer.status);
        return answer.body;
      } catch (error) {
        // Neither tells that it might be another engine by now.
        const isOurs = isSpiffeError(error, 'limited') || isSpiffeError(error, 'unavailable', 'docker.engine.busy');
        if (!isOurs) version = undefined;
        throw error;
      }
    },
    async *follow(signal, onOpen) {
      try {
        yield* follow(signal, onOpen);
      } finally {
        version = undefined;
      }
    },
    close: () => http.close(),
  };
}

/** Nobody but the user and the members of a group may have put themselves in the engine's place, or tell it what to do. */
function requireOwned(path: string, uid: number): void {
  const stats = statSync(path, { throwIfNoEntry: false });
  // Connecting says what is wrong with a path that leads nowhere.
  if (stats === undefined) return;
  if (stats.uid !== uid) {
    const detail = { expected: uid, found: stats.uid };
    throw new SpiffeError('denied', 'docker.socket.owner', "the engine's socket belongs to another user", { detail });
  }
  if ((stats.mode & 0o002) !== 0) {
    throw new SpiffeError('denied', 'docker.socket.writable', "everybody may write to the engine's socket and so command it");
  }
}

function requireStatus(status: number, expected: number): void {
  if (status === expected) return;
  const detail = { status };
  throw new SpiffeError('unavailable', 'docker.engine.status', `the engine answered with status ${status}`, { detail });
}

function malformed(cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'docker.answer.form', 'the answer of the engine is not of the known form', { cause });
}

/** @returns undefined for what is no object */
function parseRecord(bytes: Buffer): Readonly<Record<string, unknown>> | undefined {
  try {
    const value = JSON.parse(bytes.toString('utf8')) as unknown;
    return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : undefined;
  } catch {
    return undefined;
  }
}

function minorOf(version = ''): number | undefined {
  const [, minor] = /^1\.(\d{1,4})$/.exec(version) ?? [];
  return minor === undefined ? undefined : Number(minor);
}

/** The names of newer engines, then those of older ones. */
function parseEvent(line: Buffer): EngineEvent | undefined {
  const event = parseRecord(line);
  const actor = event?.['Actor'] as { readonly ID?: unknown } | null | undefined;
  const id = actor?.ID ?? event?.['id'];
  const action = event?.['Action'] ?? event?.['status'];
  return typeof id === 'string' && typeof action === 'string' ? { id, action } : undefined;
}
