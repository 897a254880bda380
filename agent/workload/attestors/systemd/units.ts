/**
 * systemd asked over D-Bus: which unit a process belongs to, and what the unit is. Keeps one connection, opened when
 * somebody asks, and forgets what it knows when systemd says that it changed. What may be believed of it is `systemd.ts`.
 */
import { untilAborted } from '../../../../runtime/abort.ts';
import { backoffMs } from '../../../../runtime/backoff.ts';
import type { BackoffPolicy } from '../../../../runtime/backoff.ts';
import type { Clock } from '../../../../runtime/clock.ts';
import { createWatch } from '../../../../runtime/watch.ts';
import type { Watch } from '../../../../runtime/watch.ts';
import { SpiffeError } from '../../../../spiffe/errors.ts';
import { busCall, busName, connectDbus } from './dbus.ts';
import type { DbusCall, DbusConnection } from './dbus.ts';
import { decodeBody } from './wire.ts';
import type { Message } from './wire.ts';

export interface SystemdAddress {
  /** `private`: systemd's own socket, for root alone and without a bus between. */
  readonly type: 'bus' | 'private';
  readonly socketPath: string;
}

export interface UnitsOptions {
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly address: SystemdAddress;
  /** Who must listen there and own systemd's name. */
  readonly trustedUid: number;
  /** For each question. */
  readonly deadlineMs: number;
}

export interface Unit {
  readonly id: string;
  /** The unit's file; empty for a unit without one. */
  readonly fragmentPath: string;
}

/** Close it to end the connection. */
export interface Units {
  /**
   * @returns undefined when systemd has the process in no unit
   * @throws unavailable `systemd.absent|refused|gone|closed`, denied `systemd.untrusted`, and as `connectDbus` and its calls;
   * the signal's reason
   */
  ofProcess(pid: number, signal: AbortSignal): Promise<Unit | undefined>;
  /** Another value once systemd read its units anew, or the connection was lost. */
  readonly changes: Watch<number>;
  close(): void;
}

const serviceName = 'org.freedesktop.systemd1';
const managerPath = '/org/freedesktop/systemd1';
const managerInterface = `${serviceName}.Manager`;
const noUnit = `${serviceName}.NoUnitForPID`;
const mostRemembered = 4_096;

const retryPolicy: BackoffPolicy = { firstMs: 100, factor: 2, longestMs: 5_000, jitter: 0.2 };
/** A connection that lasted this long was a good one. */
const settledAfterMs = 10_000;

interface Link {
  readonly connection: DbusConnection;
  /** systemd's unique name on the bus. */
  readonly owner: string | undefined;
  readonly openedAt: number;
}

export function createUnits(options: UnitsOptions): Units {
  return new SystemdUnits(options);
}

class SystemdUnits implements Units {
  readonly #options: UnitsOptions;
  readonly #changes = createWatch(0);
  readonly #stop = new AbortController();
  /** By object path, least recently used first. Shared by all who ask at once. */
  readonly #known = new Map<string, Promise<Unit>>();
  #link: Promise<Link> | undefined;
  #failures = 0;
  #failure: Error | undefined;
  #retryAt = Number.NEGATIVE_INFINITY;

  constructor(options: UnitsOptions) {
    this.#options = options;
  }

  get changes(): Watch<number> {
    return this.#changes;
  }

  async ofProcess(pid: number, signal: AbortSignal): Promise<Unit | undefined> {
    const link = await untilAborted(this.#open(), signal);
    const question = { ...manager(link.owner, 'GetUnitByPID', 'o'), signature: 'u', body: [pid] };
    const answer = await link.connection.call(question, signal);
    if (!('error' in answer)) return untilAborted(this.#unitAt(link, answer.values[0] as string), signal);
    if (answer.error === noUnit) return undefined;
    throw refused(answer.error);
  }

  close(): void {
    const closed = new SpiffeError('unavailable', 'systemd.closed', 'the attestor is stopped');
    this.#stop.abort(closed);
    this.#link?.then(({ connection }) => connection.close(closed), () => undefined);
    this.#changes.close();
  }

  #unitAt(link: Link, path: string): Promise<Unit> {
    const known = this.#known.get(path);
    const unit = known ?? readUnit(link, path, this.#stop.signal);
    this.#known.delete(path);
    this.#known.set(path, unit);
    if (known !== undefined) return unit;
    unit.catch(() => {
      if (this.#known.get(path) === unit) this.#known.delete(path);
    });
    const [oldest] = this.#known.keys();
    if (this.#known.size > mostRemembered && oldest !== undefined) this.#known.delete(oldest);
    return unit;
  }

  async #open(): Promise<Link> {
    this.#stop.signal.throwIfAborted();
    if (this.#link !== undefined) return this.#link;
    if (this.#failure !== undefined && this.#options.clock.monotonic() < this.#retryAt) throw this.#failure;
    const opening = this.#connect();
    this.#link = opening;
    try {
      const link = await opening;
      const { over } = link.connection;
      const onOver = (): void => this.#lost(link, over.reason);
      if (over.aborted) onOver();
      else over.addEventListener('abort', onOver, { once: true });
    } catch (error) {
      this.#failed(error);
    }
    return opening;
  }

  async #connect(): Promise<Link> {
    const { clock, address, trustedUid, deadlineMs } = this.#options;
    const bus = address.type === 'bus';
    const signal = this.#stop.signal;
    let owner = bus ? '' : undefined;
    const connection = await connectDbus(
      {
        clock,
        socketPath: address.socketPath,
        bus,
        trustedUid,
        deadlineMs,
        onSignal: (message, from) => this.#heard(message, owner, from),
      },
      signal,
    );
    const ask = async (call: DbusCall): Promise<unknown> => {
      const answer = await connection.call(call, signal);
      if ('error' in answer) throw refused(answer.error);
      return answer.values[0];
    };
    try {
      if (bus) owner = await findOwner(ask, trustedUid);
      await ask(manager(owner, 'Subscribe', ''));
    } catch (error) {
      connection.close(gone());
      throw error;
    }
    return { connection, owner, openedAt: clock.monotonic() };
  }

  #heard(message: Message, owner: string | undefined, connection: DbusConnection): void {
    const { sender, interface: face, member, path } = message;
    if (sender === busName && face === busName && member === 'NameOwnerChanged') {
      if (decodeBody(message, 'sss', '')[0] === serviceName) connection.close(gone());
      return;
    }
    // Anybody on a bus can send a signal to anybody, under its own name.
    if ((owner ?? sender) !== sender || face !== managerInterface || path !== managerPath) return;
    if (member === 'UnitRemoved') this.#known.delete(decodeBody(message, 'so', '')[1] as string);
    if (member !== 'Reloading') return;
    this.#known.clear();
    // While it reads, systemd answers nobody.
    if (decodeBody(message, 'b', '')[0] === false) this.#changed();
  }

  #lost({ openedAt }: Link, reason: unknown): void {
    if (this.#options.clock.monotonic() - openedAt >= settledAfterMs) this.#failures = 0;
    this.#failed(reason);
    this.#changed();
  }

  #failed(error: unknown): void {
    this.#link = undefined;
    this.#known.clear();
    this.#failures += 1;
    this.#failure = error instanceof Error ? error : new Error('failed', { cause: error });
    this.#retryAt = this.#options.clock.monotonic() + backoffMs(this.#failures, this.#options.random(), retryPolicy);
  }

  #changed(): void {
    this.#changes.set(this.#changes.value + 1);
  }
}

function manager(owner: string | undefined, member: string, answer: string): DbusCall {
  return { destination: owner, path: managerPath, interface: managerInterface, member, answer };
}

function refused(error: string): SpiffeError {
  return new SpiffeError('unavailable', 'systemd.refused', 'systemd, or the bus, answered with an error', { detail: { error } });
}

function gone(): SpiffeError {
  return new SpiffeError('unavailable', 'systemd.gone', 'systemd left the bus, or came to it anew');
}

/** Asks to be told of the next owner before asking for this one, so that none goes unseen. */
async function findOwner(ask: (call: DbusCall) => Promise<unknown>, trustedUid: number): Promise<string> {
  const ownerRule = `type='signal',sender='${busName}',interface='${busName}',member='NameOwnerChanged',arg0='${serviceName}'`;
  await ask(busCall('AddMatch', '', ownerRule));
  let owner: string;
  try {
    owner = String(await ask(busCall('GetNameOwner', 's', serviceName)));
  } catch (error) {
    if (!(error instanceof SpiffeError) || error.detail['error'] !== `${busName}.Error.NameHasNoOwner`) throw error;
    throw new SpiffeError('unavailable', 'systemd.absent', 'systemd is not on this bus', { cause: error });
  }
  const uid = Number(await ask(busCall('GetConnectionUnixUser', 'u', owner)));
  if (uid !== trustedUid) {
    throw new SpiffeError('denied', 'systemd.untrusted', "another user has systemd's name on the bus", { detail: { uid } });
  }
  const signals = `type='signal',sender='${serviceName}',path='${managerPath}',interface='${managerInterface}'`;
  for (const member of ['Reloading', 'UnitRemoved']) await ask(busCall('AddMatch', '', `${signals},member='${member}'`));
  return owner;
}

async function readUnit({ connection, owner }: Link, path: string, signal: AbortSignal): Promise<Unit> {
  const property = async (name: string): Promise<string> => {
    const answer = await connection.call(
      {
        destination: owner,
        path,
        interface: 'org.freedesktop.DBus.Properties',
        member: 'Get',
        signature: 'ss',
        body: [`${serviceName}.Unit`, name],
        answer: 'v',
        variant: 's',
      },
      signal,
    );
    if ('error' in answer) throw refused(answer.error);
    return String((answer.values[0] as { readonly value: unknown }).value);
  };
  const [id, fragmentPath] = await Promise.all([property('Id'), property('FragmentPath')]);
  return { id, fragmentPath };
}
