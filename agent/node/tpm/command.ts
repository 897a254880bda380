/**
 * Commands and responses of a TPM 2.0 as bytes: handles, authorizations and parameters framed, response codes turned into
 * errors of ours, commands sent again when the TPM asks for it [TPM 2.0 Library, part 1, 18; part 2, 6.6]. Which commands
 * there are is `commands.ts`.
 */
import type { Clock } from '../../../runtime/clock.ts';
import { joined, openTpm, readRest, readU16, readU32, sized, u16, u32, u8, type TpmCursor } from '../../../runtime/tpm/wire.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import type { TpmDevice } from './device.ts';

/** A password session without a password. */
const passwordSession = 0x4000_0009;
const tag = { withoutSessions: 0x8001, withSessions: 0x8002 } as const;
const continueSession = 1;

export type Authorization = { readonly password: Uint8Array } | { readonly session: number };

export interface TpmCommand {
  /** As errors and logs name it. */
  readonly name: string;
  /** TPM_CC. */
  readonly code: number;
  readonly handles?: readonly number[];
  /** For the first handles, in their order. */
  readonly authorizations?: readonly Authorization[];
  readonly parameters?: Uint8Array;
  /** Whether the response begins with a handle. */
  readonly yieldsHandle?: boolean;
}

export interface TpmReply {
  /** 0 unless the command yields one. */
  readonly handle: number;
  /** At the first parameter. */
  readonly parameters: TpmCursor;
}

export interface Tpm {
  /**
   * @throws unavailable `evidence.tpm.broken|deadline|failed|lockout`, denied `evidence.tpm.authorization`, and what reading a
   *   response throws
   */
  run(command: TpmCommand): Promise<TpmReply>;
}

/** Bases of response codes; parameter, handle and session numbers are taken off those that have them. */
export const responseCode = {
  success: 0x000,
  authFail: 0x08e,
  handle: 0x08b,
  integrity: 0x09f,
  badAuth: 0x0a2,
  yielded: 0x908,
  testing: 0x90a,
  nvRate: 0x920,
  lockout: 0x921,
  retry: 0x922,
} as const;

const asksAgain: readonly number[] = [responseCode.yielded, responseCode.testing, responseCode.nvRate, responseCode.retry];
const maxAttempts = 10;
const retryMs = 500;

export function createTpm(device: TpmDevice, clock: Pick<Clock, 'sleep'>): Tpm {
  return {
    async run(command) {
      const bytes = encodeCommand(command);
      for (let attempt = 1; ; attempt += 1) {
        const { code, reply } = decodeResponse(command, await device.transmit(bytes));
        if (reply !== undefined) return reply;
        if (!asksAgain.includes(code) || attempt === maxAttempts) throw failed(command, code);
        await clock.sleep(retryMs);
      }
    },
  };
}

/** Whether a command failed with a response code of this base. */
export function failedWith(error: unknown, code: number): error is SpiffeError {
  return error instanceof SpiffeError && error.reason.startsWith('evidence.tpm.') && error.detail['code'] === codeText(code);
}

function encodeCommand({ code, handles = [], authorizations = [], parameters = new Uint8Array() }: TpmCommand): Uint8Array {
  const area = joined(...authorizations.map(encodeAuthorization));
  const body = joined(...handles.map(u32), ...(authorizations.length === 0 ? [] : [u32(area.length), area]), parameters);
  const kind = authorizations.length === 0 ? tag.withoutSessions : tag.withSessions;
  return joined(u16(kind), u32(10 + body.length), u32(code), body);
}

function encodeAuthorization(authorization: Authorization): Uint8Array {
  return 'session' in authorization
    ? joined(u32(authorization.session), sized(), u8(continueSession), sized())
    : joined(u32(passwordSession), sized(), u8(continueSession), sized(authorization.password));
}

/** The authorizations of a response prove nothing here: no session has a key. */
function decodeResponse(command: TpmCommand, response: Uint8Array): { readonly code: number; readonly reply?: TpmReply } {
  const cursor = openTpm(response);
  const kind = readU16(cursor);
  // The size, which the device went by.
  readU32(cursor);
  const code = baseOf(readU32(cursor));
  if (code !== responseCode.success) return { code };
  const handle = command.yieldsHandle === true ? readU32(cursor) : 0;
  if (kind !== tag.withSessions) return { code, reply: { handle, parameters: openTpm(readRest(cursor)) } };
  const size = readU32(cursor);
  const rest = readRest(cursor);
  if (size > rest.length) throw new SpiffeError('unavailable', 'evidence.tpm.failed', `response to ${command.name} is cut off`);
  return { code, reply: { handle, parameters: openTpm(rest.subarray(0, size)) } };
}

/** Layers above the TPM, such as the kernel's resource manager, mark what they answer in higher bits. */
function baseOf(code: number): number {
  return (code & 0x080) === 0 ? code & 0xfff : code & 0x0bf;
}

function failed({ name }: TpmCommand, code: number): SpiffeError {
  const detail = { command: name, code: codeText(code) };
  if (code === responseCode.lockout) {
    return new SpiffeError('unavailable', 'evidence.tpm.lockout', 'the TPM is locked out: too many wrong passwords', { detail });
  }
  if (code === responseCode.authFail || code === responseCode.badAuth) {
    return new SpiffeError('denied', 'evidence.tpm.authorization', `the TPM refuses the password for ${name}`, { detail });
  }
  return new SpiffeError('unavailable', 'evidence.tpm.failed', `the TPM answers ${name} with code ${codeText(code)}`, { detail });
}

function codeText(code: number): string {
  return `0x${code.toString(16).padStart(3, '0')}`;
}
