/**
 * One D-Bus connection over a Unix socket: who listens there, authentication, calls with their replies, signals. What is
 * asked over it is `units.ts`; how a message is written is `wire.ts`. Descriptors are never passed.
 */
import { Socket } from 'node:net';
import { untilAborted } from '../../../../runtime/abort.ts';
import type { Clock } from '../../../../runtime/clock.ts';
import {
  closeDescriptor,
  connectSocket,
  effectiveUid,
  openStreamSocket,
  peerCredentials,
  systemCode,
} from '../../../../runtime/linux.ts';
import { SpiffeError } from '../../../../spiffe/errors.ts';
import type { WireValue } from './values.ts';
import { decodeBody, decodeMessage, encodeCall, fixedHeaderBytes, messageLength, messageTypes, noAutoStart } from './wire.ts';
import type { Message } from './wire.ts';

export interface DbusCall {
  /** A unique name on a bus; undefined where there is none. */
  readonly destination: string | undefined;
  readonly path: string;
  readonly interface: string;
  readonly member: string;
  /** Signature and values of what is asked with. */
  readonly signature?: string;
  readonly body?: readonly (string | number)[];
  /** Signature of the reply. */
  readonly answer: string;
  /** Signature of the variants in the reply. */
  readonly variant?: string;
}

/** `error`: the name of the D-Bus error that came instead. */
export type DbusAnswer = { readonly values: readonly WireValue[] } | { readonly error: string };

export interface DbusOptions {
  readonly clock: Clock;
  readonly socketPath: string;
  /** Whether a bus listens there, which gives names to who connects; otherwise the service itself. */
  readonly bus: boolean;
  /** The user who must be listening. */
  readonly trustedUid: number;
  /** For authentication, and for each call once it is sent. A connection on which one passes is given up. */
  readonly deadlineMs: number;
  /** Called with every signal, in their order among the replies. */
  readonly onSignal: (message: Message, connection: DbusConnection) => void;
}

/** Close it when it is of no more use. */
export interface DbusConnection {
  /**
   * @throws unavailable `dbus.deadline|broken|busy`, invalid `dbus.type|form` when the reply is not of its signature; the
   * signal's reason
   */
  call(call: DbusCall, signal: AbortSignal): Promise<DbusAnswer>;
  /** Aborts with a SpiffeError when the connection is over. */
  readonly over: AbortSignal;
  /** @param why what `over` aborts with, and what is still asked is answered with */
  close(why: SpiffeError): void;
}

export const busName = 'org.freedesktop.DBus';
const busPath = '/org/freedesktop/DBus';

/** A call to the bus itself. */
export function busCall(member: string, answer: string, ...texts: readonly string[]): DbusCall {
  const signature = 's'.repeat(texts.length);
  return { destination: busName, path: busPath, interface: busName, member, signature, body: texts, answer };
}

/** dbus-daemon refuses calls beyond 128 unanswered ones of one connection. */
const mostInFlight = 64;
const mostWaiting = 4_096;
/** Of a line during authentication; the protocol's own bound is 16 KiB. */
const longestLine = 1_024;

/**
 * @throws unavailable `dbus.unreachable|refused|broken|deadline`; denied `dbus.untrusted`; the signal's reason
 */
export async function connectDbus(options: DbusOptions, signal: AbortSignal): Promise<DbusConnection> {
  signal.throwIfAborted();
  const connection = new Connection(options, openSocket(options));
  try {
    await untilAborted(connection.begin(), signal);
    return connection;
  } catch (error) {
    connection.close(broken(error));
    throw error;
  }
}

/** Who listens is told by the kernel as of listen(), so nobody can slip in between a look at the file and connecting. */
function openSocket({ socketPath, trustedUid }: DbusOptions): Socket {
  let fd = -1;
  try {
    fd = openStreamSocket();
    connectSocket(fd, socketPath);
    const { uid } = peerCredentials(fd);
    if (uid !== trustedUid) {
      throw new SpiffeError('denied', 'dbus.untrusted', 'another user than root listens there', { detail: { uid } });
    }
    return new Socket({ fd, readable: true, writable: true });
  } catch (error) {
    closeDescriptor(fd);
    if (error instanceof SpiffeError) throw error;
    const detail = { code: systemCode(error) ?? 'unknown' };
    throw new SpiffeError('unavailable', 'dbus.unreachable', 'the D-Bus socket cannot be connected to', { detail, cause: error });
  }
}

interface Question {
  readonly call: DbusCall;
  readonly reply: PromiseWithResolvers<Message>;
}

interface Asked extends Question {
  /** Ends its deadline. */
  readonly stop: AbortController;
}

function broken(cause: unknown): SpiffeError {
  return new SpiffeError('unavailable', 'dbus.broken', 'the D-Bus connection broke the protocol or ended', { cause });
}

class Connection implements DbusConnection {
  readonly #options: DbusOptions;
  readonly #socket: Socket;
  readonly #over = new AbortController();
  /** Set while authenticating: receives the server's line. */
  #line: PromiseWithResolvers<string> | undefined;
  #chunks: Buffer[] = [];
  #received = 0;
  /** Bytes to have before looking again. */
  #needed = fixedHeaderBytes;
  #serial = 0;
  readonly #asked = new Map<number, Asked>();
  readonly #waiting = new Set<Question>();

  constructor(options: DbusOptions, socket: Socket) {
    this.#options = options;
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (error) => this.#end(broken(error)));
    socket.on('close', () => this.#end(broken(new Error('closed by the other side'))));
  }

  get over(): AbortSignal {
    return this.#over.signal;
  }

  /** Authenticates as this process's user, and asks a bus for a name. */
  async begin(): Promise<void> {
    const deadline = this.#deadline();
    const line = Promise.withResolvers<string>();
    line.promise.catch(() => undefined);
    this.#line = line;
    try {
      const uid = Buffer.from(String(effectiveUid()), 'latin1').toString('hex');
      // systemd leaves a call lie that comes with the BEGIN, until something else comes; so that goes ahead, as its own
      // programs send it. Who is refused sends nothing more.
      this.#socket.write(`\0AUTH EXTERNAL ${uid}\r\nBEGIN\r\n`);
      const answer = await line.promise;
      if (!/^OK [0-9a-fA-F]{32}$/.test(answer)) {
        const detail = { answer: answer.split(' ', 1)[0]?.replaceAll(/[^A-Z]/g, '').slice(0, 16) ?? '' };
        throw new SpiffeError('unavailable', 'dbus.refused', 'the other side does not let this user in', { detail });
      }
    } finally {
      deadline.abort();
    }
    if (!this.#options.bus) return;
    const hello = await this.call(busCall('Hello', 's'), this.over);
    if ('error' in hello) {
      const detail = { error: hello.error };
      throw new SpiffeError('unavailable', 'dbus.refused', 'the bus gives this connection no name', { detail });
    }
  }

  async call(call: DbusCall, signal: AbortSignal): Promise<DbusAnswer> {
    signal.throwIfAborted();
    this.over.throwIfAborted();
    if (this.#waiting.size >= mostWaiting) {
      throw new SpiffeError('unavailable', 'dbus.busy', 'more questions wait for D-Bus than are kept');
    }
    const question: Question = { call, reply: Promise.withResolvers<Message>() };
    this.#waiting.add(question);
    this.#send();
    let message: Message;
    try {
      message = await untilAborted(question.reply.promise, signal);
    } finally {
      // Once it is sent its place stays taken until the reply is here.
      this.#waiting.delete(question);
    }
    if (message.type === messageTypes.error) return { error: message.errorName?.slice(0, 255) ?? '' };
    return { values: decodeBody(message, call.answer, call.variant ?? '') };
  }

  close(why: SpiffeError): void {
    this.#end(why);
  }

  /** @returns what to abort once it is of no interest any more */
  #deadline(): AbortController {
    const stop = new AbortController();
    const { clock, deadlineMs } = this.#options;
    clock.sleep(deadlineMs, stop.signal).then(
      () => this.#end(new SpiffeError('unavailable', 'dbus.deadline', 'D-Bus did not answer in time')),
      () => undefined,
    );
    return stop;
  }

  #send(): void {
    for (const question of this.#waiting) {
      if (this.#asked.size >= mostInFlight) return;
      this.#waiting.delete(question);
      this.#serial = (this.#serial % 0xffff_ffff) + 1;
      // Waiting its turn is no fault of the other side.
      this.#asked.set(this.#serial, { ...question, stop: this.#deadline() });
      const { destination, path, interface: face, member, signature = '', body = [] } = question.call;
      const to = destination === undefined ? {} : { destination };
      const message = { ...to, path, interface: face, member, signature, body };
      this.#socket.write(encodeCall({ ...message, flags: noAutoStart, serial: this.#serial }));
    }
  }

  #receive(chunk: Buffer): void {
    if (this.over.aborted) return;
    this.#chunks.push(chunk);
    this.#received += chunk.length;
    try {
      if (this.#line !== undefined) this.#takeLine(this.#line);
      if (this.#line === undefined) this.#takeMessages();
    } catch (error) {
      this.#end(broken(error));
    }
  }

  #takeLine(line: PromiseWithResolvers<string>): void {
    const bytes = Buffer.concat(this.#chunks);
    const end = bytes.indexOf('\r\n');
    if (end < 0 && bytes.length <= longestLine) return;
    if (end < 0) throw new Error('not a line of authentication');
    this.#line = undefined;
    this.#chunks = [bytes.subarray(end + 2)];
    this.#received = bytes.length - end - 2;
    line.resolve(bytes.toString('latin1', 0, end));
  }

  #takeMessages(): void {
    if (this.#received < this.#needed) return;
    let bytes = Buffer.concat(this.#chunks, this.#received);
    while (bytes.length >= fixedHeaderBytes) {
      this.#needed = messageLength(bytes);
      if (bytes.length < this.#needed) break;
      const message = decodeMessage(bytes.subarray(0, this.#needed));
      bytes = bytes.subarray(this.#needed);
      this.#needed = fixedHeaderBytes;
      this.#take(message);
      if (this.over.aborted) return;
    }
    this.#chunks = bytes.length === 0 ? [] : [bytes];
    this.#received = bytes.length;
  }

  #take(message: Message): void {
    if (message.type === messageTypes.signal) this.#options.onSignal(message, this);
    // Calls to us and types nobody knows are left alone: nothing here is a service, and nobody waits for that.
    if (message.type !== messageTypes.return && message.type !== messageTypes.error) return;
    const question = this.#asked.get(message.replySerial ?? 0);
    // A reply that nobody waits for, or from somebody who was not asked, is not one.
    if (question === undefined || !this.#isFrom(question, message)) return;
    this.#asked.delete(message.replySerial ?? 0);
    question.stop.abort();
    question.reply.resolve(message);
    this.#send();
  }

  /** The bus answers in place of a service that is gone. */
  #isFrom({ call }: Question, { sender, type }: Message): boolean {
    if (call.destination === undefined || sender === call.destination) return true;
    return sender === busName && type === messageTypes.error;
  }

  #end(error: SpiffeError): void {
    if (this.over.aborted) return;
    this.#over.abort(error);
    this.#socket.destroy();
    this.#chunks = [];
    this.#line?.reject(error);
    for (const { stop } of this.#asked.values()) stop.abort();
    for (const { reply } of [...this.#asked.values(), ...this.#waiting]) {
      // Whoever asked may have left, and nobody else hears of it.
      reply.promise.catch(() => undefined);
      reply.reject(error);
    }
    this.#asked.clear();
    this.#waiting.clear();
  }
}
