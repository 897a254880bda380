/**
 * What `/proc/PID/status` says of a process's rights: capabilities, seccomp, no-new-privs, who traces it. All of it is of the
 * main thread and of the moment; whose namespace the capabilities are worth something in is `process-namespace.ts`.
 */
import { open, readdir } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { hidden, malformed, readProcessFile } from './process-file.ts';

export interface ProcessStatus {
  readonly effective: bigint;
  readonly permitted: bigint;
  readonly seccomp: 'disabled' | 'strict' | 'filter' | undefined;
  /** Undefined where the kernel does not tell (before 4.10). */
  readonly noNewPrivs: boolean | undefined;
  /** Real, effective, saved and file system ids, as this program's user namespace has them. */
  readonly uids: readonly number[];
}

/** @throws as `readProcessFile`; internal `process.form` */
export function readStatus(pid: number): ProcessStatus {
  return parseProcessStatus(readProcessFile(pid, 'status').toString('latin1'));
}

/** @throws internal `process.form` */
export function parseProcessStatus(text: string): ProcessStatus {
  const seccomp = fieldOf(text, 'Seccomp', /^[012]$/);
  const noNewPrivs = fieldOf(text, 'NoNewPrivs', /^[01]$/);
  return {
    effective: BigInt(`0x${required(fieldOf(text, 'CapEff', /^[0-9a-f]{1,16}$/))}`),
    permitted: BigInt(`0x${required(fieldOf(text, 'CapPrm', /^[0-9a-f]{1,16}$/))}`),
    seccomp: seccomp === undefined ? undefined : (['disabled', 'strict', 'filter'] as const)[Number(seccomp)],
    noNewPrivs: noNewPrivs === undefined ? undefined : noNewPrivs === '1',
    uids: required(fieldOf(text, 'Uid', /^\d{1,10}(?:\t\d{1,10}){3}$/)).split('\t').map(Number),
  };
}

/** The name on the first line is the process's own choice; the kernel escapes line ends in it. */
function fieldOf(text: string, key: string, form: RegExp): string | undefined {
  const start = text.indexOf(`\n${key}:\t`);
  if (start < 0) return undefined;
  const end = text.indexOf('\n', start + 1);
  const value = text.slice(start + key.length + 3, end < 0 ? text.length : end);
  if (!form.test(value)) throw malformed();
  return value;
}

function required(value: string | undefined): string {
  if (value === undefined) throw malformed();
  return value;
}

const LIMIT_THREADS = 1024;
/** Looked at together: many enough to be quick, few enough to leave threads to others. */
const TOGETHER = 4;
/** The name, which is at most 64 bytes, and the ids that stand before the tracer's. */
const HEAD_BYTES = 1024;

/**
 * Whether a debugger is attached to any thread of the process. Off the event loop: threads cost the process nothing.
 * @throws as `readProcessFile`; limited `process.threads`; internal `process.form`
 */
export async function isTraced(pid: number, limitThreads: number = LIMIT_THREADS): Promise<boolean> {
  const threads = await threadsOf(pid, limitThreads);
  for (let at = 0; at < threads.length; at += TOGETHER) {
    const some = threads.slice(at, at + TOGETHER).map((thread) => isThreadTraced(pid, thread));
    if ((await Promise.all(some)).includes(true)) return true;
  }
  return false;
}

async function threadsOf(pid: number, limit: number): Promise<readonly string[]> {
  let threads: readonly string[];
  try {
    threads = await readdir(`/proc/${String(pid)}/task`);
  } catch (error) {
    throw hidden(error);
  }
  if (threads.length > limit) throw new SpiffeError('limited', 'process.threads', 'the process has more threads than are looked at');
  return threads;
}

async function isThreadTraced(pid: number, thread: string): Promise<boolean> {
  const head = Buffer.alloc(HEAD_BYTES);
  let status: FileHandle | undefined;
  let length: number;
  try {
    status = await open(`/proc/${String(pid)}/task/${thread}/status`, 'r');
    length = (await status.read(head, 0, HEAD_BYTES, 0)).bytesRead;
  } catch (error) {
    const failure = hidden(error);
    // It has ended meanwhile, as threads do.
    if (failure.reason === 'process.gone') return false;
    throw failure;
  } finally {
    await status?.close();
  }
  return required(fieldOf(head.toString('latin1', 0, length), 'TracerPid', /^\d{1,10}$/)) !== '0';
}

const capabilities = [
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_DAC_READ_SEARCH',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_SETPCAP',
  'CAP_LINUX_IMMUTABLE',
  'CAP_NET_BIND_SERVICE',
  'CAP_NET_BROADCAST',
  'CAP_NET_ADMIN',
  'CAP_NET_RAW',
  'CAP_IPC_LOCK',
  'CAP_IPC_OWNER',
  'CAP_SYS_MODULE',
  'CAP_SYS_RAWIO',
  'CAP_SYS_CHROOT',
  'CAP_SYS_PTRACE',
  'CAP_SYS_PACCT',
  'CAP_SYS_ADMIN',
  'CAP_SYS_BOOT',
  'CAP_SYS_NICE',
  'CAP_SYS_RESOURCE',
  'CAP_SYS_TIME',
  'CAP_SYS_TTY_CONFIG',
  'CAP_MKNOD',
  'CAP_LEASE',
  'CAP_AUDIT_WRITE',
  'CAP_AUDIT_CONTROL',
  'CAP_SETFCAP',
  'CAP_MAC_OVERRIDE',
  'CAP_MAC_ADMIN',
  'CAP_SYSLOG',
  'CAP_WAKE_ALARM',
  'CAP_BLOCK_SUSPEND',
  'CAP_AUDIT_READ',
  'CAP_PERFMON',
  'CAP_BPF',
  'CAP_CHECKPOINT_RESTORE',
] as const;

/** Names as capabilities(7) has them; a newer one is its number. */
export function capabilityNames(set: bigint): readonly string[] {
  const names: string[] = [];
  for (let bit = 0; bit < 64; bit += 1) if (((set >> BigInt(bit)) & 1n) === 1n) names.push(capabilities[bit] ?? String(bit));
  return names;
}
