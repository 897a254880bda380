/**
 * systemd on D-Bus for tests: a server on a Unix socket that speaks the real protocol, as a bus with systemd on it or as
 * systemd's own socket, and that can be told to misbehave. Writes messages by itself, in either byte order.
 */
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import { effectiveUid } from '../../runtime/linux.ts';

export const systemdName = 'org.freedesktop.systemd1';
const systemdPath = '/org/freedesktop/systemd1';
const systemdOwner = ':1.1';
const busName = 'org.freedesktop.DBus';

export type Argument = string | number | boolean | readonly Argument[];

/** One message, byte by byte; a variant is [signature, value]. */
export interface Wire {
  readonly type?: number;
  readonly flags?: number;
  readonly version?: number;
  readonly serial?: number;
  /** Code, signature and value of each header field. */
  readonly fields?: readonly (readonly [number, string, Argument])[];
  readonly signature?: string;
  readonly body?: readonly Argument[];
  readonly little?: boolean;
}

const sizes: Readonly<Record<string, number>> = { y: 1, g: 1, v: 1, '(': 8 };

class Bytes {
  readonly out: number[] = [];
  readonly little: boolean;

  constructor(little: boolean) {
    this.little = little;
  }

  pad(to: number): void {
    while (this.out.length % to !== 0) this.out.push(0);
  }

  u32(value: number): void {
    this.pad(4);
    const four = [value & 255, (value >>> 8) & 255, (value >>> 16) & 255, value >>> 24];
    this.out.push(...(this.little ? four : four.toReversed()));
  }

  write(type: string, value: Argument): void {
    if (type.startsWith('a')) {
      this.u32(0);
      const lengthAt = this.out.length - 4;
      this.pad(sizes[type[1] ?? ''] ?? 4);
      const from = this.out.length;
      for (const item of value as Argument[]) this.write(type.slice(1), item);
      const length = new Bytes(this.little);
      length.u32(this.out.length - from);
      this.out.splice(lengthAt, 4, ...length.out);
    } else if (type.startsWith('(')) {
      this.pad(8);
      for (const [index, item] of (value as Argument[]).entries()) this.write(type[index + 1] ?? '', item);
    } else if (type === 'v') {
      const [inner, item] = value as [string, Argument];
      this.write('g', inner);
      this.write(inner, item);
    } else if (type === 'y') {
      this.out.push(Number(value));
    } else if (type === 'u' || type === 'b') {
      this.u32(Number(value));
    } else {
      const text = Buffer.from(value as string, 'latin1');
      if (type === 'g') this.out.push(text.length);
      else this.u32(text.length);
      // Not concatenated by spreading: a text may be long.
      for (const byte of text) this.out.push(byte);
      this.out.push(0);
    }
  }
}

/** Texts are taken as latin1, so that any bytes can be written. */
export function wire(message: Wire): Buffer {
  const { type = 2, flags = 1, version = 1, serial = 1, fields = [], signature = '', body = [], little = true } = message;
  const content = new Bytes(little);
  for (const [index, value] of body.entries()) content.write(body.length === 1 ? signature : (signature[index] ?? ''), value);
  const head = new Bytes(little);
  head.out.push(little ? 0x6c : 0x42, type, flags, version);
  head.u32(content.out.length);
  head.u32(serial);
  const typed = signature === '' ? fields : [...fields, [8, 'g', signature] as const];
  head.write('a(yv)', typed.map(([code, inner, value]) => [code, [inner, value]]));
  head.pad(8);
  return Buffer.concat([Buffer.from(head.out), Buffer.from(content.out)]);
}

export interface Call {
  readonly serial: number;
  readonly member: string;
  readonly path: string;
  readonly destination: string | undefined;
  readonly texts: readonly string[];
  readonly number: number;
}

/** Reads what a client of ours sends: little-endian, texts or one number. */
function readCall(bytes: Buffer): Call {
  const fieldsEnd = 16 + bytes.readUInt32LE(12);
  const fields = new Map<number, string>();
  for (let at = 16; at < fieldsEnd; ) {
    at = Math.ceil(at / 8) * 8;
    const [code = 0, type] = [bytes[at], String.fromCharCode(bytes[at + 2] ?? 0)];
    at += 4;
    if (type === 'g') {
      const length = bytes[at] ?? 0;
      fields.set(code, bytes.toString('latin1', at + 1, at + 1 + length));
      at += length + 2;
    } else {
      const length = bytes.readUInt32LE(at);
      fields.set(code, bytes.toString('utf8', at + 4, at + 4 + length));
      at += 4 + length + 1;
    }
  }
  const body = bytes.subarray(Math.ceil(fieldsEnd / 8) * 8);
  const texts: string[] = [];
  const signature = fields.get(8) ?? '';
  for (let at = 0, index = 0; index < signature.length && signature[index] === 's'; index += 1) {
    at = Math.ceil(at / 4) * 4;
    const length = body.readUInt32LE(at);
    texts.push(body.toString('utf8', at + 4, at + 4 + length));
    at += 4 + length + 1;
  }
  return {
    serial: bytes.readUInt32LE(8),
    member: fields.get(3) ?? '',
    path: fields.get(1) ?? '',
    destination: fields.get(6),
    texts,
    number: signature === 'u' ? body.readUInt32LE(0) : 0,
  };
}

/** What goes back for a call; undefined for silence. */
export type Behaviour = (call: Call) => Buffer | undefined;

export interface FakeUnit {
  readonly id: string;
  readonly fragmentPath: string;
}

export interface FakeSystemd {
  /** By process number; a process without one is in no unit. */
  readonly units: Map<number, FakeUnit>;
  /** Who has systemd's name on the bus: the user, or nobody. */
  owner: { uid: number } | undefined;
  /** What is done instead of the usual, by the member that is called; `AUTH` for the answer to authentication. */
  readonly instead: Map<string, Behaviour>;
  /** Connections that are open now. */
  readonly connections: number;
  /** How often a member was called. */
  asked(member: string): number;
  answer(call: Call, signature?: string, ...body: Argument[]): Buffer;
  refuse(call: Call, name: string): Buffer;
  /** To everybody, from systemd unless said otherwise. */
  signal(member: string, signature: string, body: readonly Argument[], from?: { sender: string; interface: string }): void;
  send(bytes: Buffer): void;
  /** Ends all connections. */
  hangUp(): void;
  /** Also removes the socket's file. */
  stop(): Promise<void>;
}

export function objectPathOf(id: string): string {
  const label = id.replaceAll(/[^A-Za-z]/g, (char, at: number) =>
    /\d/.test(char) && at > 0 ? char : `_${char.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
  return `${systemdPath}/unit/${label}`;
}

export interface FakeSystemdOptions {
  readonly type: 'bus' | 'private';
  readonly socketPath: string;
  readonly little?: boolean;
}

export async function startSystemd({ type, socketPath, little = true }: FakeSystemdOptions): Promise<FakeSystemd> {
  const sockets = new Set<Socket>();
  const counts = new Map<string, number>();
  const isBus = type === 'bus';
  let serial = 100;
  const next = (): number => (serial += 1);
  /** systemd names itself as the sender on its own socket too. */
  const senderOf = ({ destination }: Call): string => (isBus ? (destination ?? '') : systemdName);

  const fake: FakeSystemd = {
    units: new Map(),
    owner: { uid: effectiveUid() },
    instead: new Map(),
    get connections() {
      return sockets.size;
    },
    asked: (member) => counts.get(member) ?? 0,
    answer(call, signature = '', ...body) {
      return wire({ fields: [[5, 'u', call.serial], [7, 's', senderOf(call)]], serial: next(), signature, body, little });
    },
    refuse(call, name) {
      return wire({ type: 3, fields: [[5, 'u', call.serial], [7, 's', senderOf(call)], [4, 's', name]], serial: next(), signature: 's', body: ['no'], little });
    },
    signal(member, signature, body, from = { sender: isBus ? systemdOwner : systemdName, interface: `${systemdName}.Manager` }) {
      const path = from.interface === busName ? '/org/freedesktop/DBus' : systemdPath;
      fake.send(
        wire({ type: 4, fields: [[1, 'o', path], [2, 's', from.interface], [3, 's', member], [7, 's', from.sender]], serial: next(), signature, body, little }),
      );
    },
    send: (bytes) => sockets.forEach((socket) => socket.write(bytes)),
    hangUp: () => sockets.forEach((socket) => socket.destroy()),
    async stop() {
      fake.hangUp();
      server.close();
      await once(server, 'close');
    },
  };

  const usual: Behaviour = (call) => {
    if (!isBus && call.destination !== undefined) return fake.refuse(call, `${busName}.Error.ServiceUnknown`);
    if (call.destination === systemdOwner && fake.owner === undefined) return fake.refuse({ ...call, destination: busName }, `${busName}.Error.ServiceUnknown`);
    switch (call.member) {
      case 'Hello':
        // The name comes again as a signal, as it does from the real one.
        return Buffer.concat([fake.answer(call, 's', ':1.9'), nameAcquired()]);
      case 'AddMatch':
      case 'Subscribe':
        return fake.answer(call);
      case 'GetNameOwner':
        return fake.owner === undefined ? fake.refuse(call, `${busName}.Error.NameHasNoOwner`) : fake.answer(call, 's', systemdOwner);
      case 'GetConnectionUnixUser':
        return fake.answer(call, 'u', fake.owner?.uid ?? 0);
      case 'GetUnitByPID': {
        const found = fake.units.get(call.number);
        return found === undefined ? fake.refuse(call, `${systemdName}.NoUnitForPID`) : fake.answer(call, 'o', objectPathOf(found.id));
      }
      case 'Get': {
        const unit = [...fake.units.values()].find(({ id }) => objectPathOf(id) === call.path);
        if (unit === undefined) return fake.refuse(call, `${busName}.Error.UnknownObject`);
        return fake.answer(call, 'v', ['s', call.texts[1] === 'Id' ? unit.id : unit.fragmentPath]);
      }
      default:
        return fake.refuse(call, `${busName}.Error.UnknownMethod`);
    }
  };
  const nameAcquired = (): Buffer =>
    wire({ type: 4, fields: [[1, 'o', '/org/freedesktop/DBus'], [2, 's', busName], [3, 's', 'NameAcquired'], [7, 's', busName]], serial: next(), signature: 's', body: [':1.9'], little });

  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => undefined);
    let bytes = Buffer.alloc(0);
    let phase: 'auth' | 'begin' | 'hello' | 'open' = 'auth';
    const step = (): boolean => {
      if (phase === 'auth' || phase === 'begin') {
        const end = bytes.indexOf('\r\n');
        if (end < 0) return false;
        const line = bytes.toString('latin1', 0, end);
        bytes = bytes.subarray(end + 2);
        if (phase === 'begin') {
          if (line !== 'BEGIN') socket.destroy();
          phase = isBus ? 'hello' : 'open';
          // What came with it is not looked at by systemd until more comes.
          return isBus;
        }
        const isOurs = line === `\0AUTH EXTERNAL ${Buffer.from(String(effectiveUid())).toString('hex')}`;
        const instead = fake.instead.get('AUTH');
        const answer = instead === undefined ? Buffer.from(isOurs ? `OK ${'0123456789abcdef'.repeat(2)}\r\n` : 'REJECTED EXTERNAL\r\n') : instead(noCall);
        if (answer !== undefined) socket.write(answer);
        phase = 'begin';
        return true;
      }
      if (bytes.length < 16) return false;
      const length = Math.ceil((16 + bytes.readUInt32LE(12)) / 8) * 8 + bytes.readUInt32LE(4);
      if (bytes.length < length) return false;
      const call = readCall(bytes.subarray(0, length));
      bytes = bytes.subarray(length);
      // A bus talks to nobody without a name.
      if (phase === 'hello' && call.member !== 'Hello') socket.destroy();
      phase = 'open';
      counts.set(call.member, (counts.get(call.member) ?? 0) + 1);
      const back = (fake.instead.get(call.member) ?? usual)(call);
      if (back !== undefined) socket.write(back);
      return true;
    };
    socket.on('data', (chunk: Buffer) => {
      bytes = Buffer.concat([bytes, chunk]);
      while (!socket.destroyed && step());
    });
  });
  await listen(server, socketPath);
  return fake;
}

const noCall: Call = { serial: 0, member: 'AUTH', path: '', destination: undefined, texts: [], number: 0 };

async function listen(server: Server, socketPath: string): Promise<void> {
  server.listen(socketPath);
  await once(server, 'listening');
}
