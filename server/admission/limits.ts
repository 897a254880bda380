/**
 * How often admission may fail for one address or one token, and how much of it goes on at once. Successes have no limit
 * but their turn: any number of honest nodes may stand behind one address.
 */
import type { Clock } from '../../runtime/clock.ts';
import { SpiffeError } from '../../spiffe/errors.ts';

export interface AdmissionLimits {
  /** Each failure keeps its address, and its token, out for this long; failures that met at once add up. */
  readonly failureMs: number;
  /** Attempts worked on at once; those that wait for an answer of their node do not count. */
  readonly concurrent: number;
  /** Attempts that wait for their turn. */
  readonly waiting: number;
}

export const defaultAdmissionLimits: AdmissionLimits = { failureMs: 1_000, concurrent: 16, waiting: 4_096 };

/** Accounts remembered; a flood from more addresses than this displaces the oldest. */
const maxAccounts = 100_000;
/** The longest that failures which met at once keep an account out. */
const longestPenaltyMs = 60_000;

export interface Attempt {
  /** What its failure is counted by: an address, the hash of a token. */
  readonly accounts: readonly string[];
}

export interface AdmissionGate {
  /**
   * Runs one attempt when its turn comes. `pause` lends the turn to others while something outside is waited for.
   * Rejections of `isFailure` count against the accounts.
   * @throws limited `admission.failures|queue`, and what `work` throws
   */
  run<T>(attempt: Attempt, work: (pause: Pause) => Promise<T>, isFailure: (error: unknown) => boolean): Promise<T>;
}

export type Pause = <T>(outside: () => Promise<T>) => Promise<T>;

export function createAdmissionGate(
  clock: Pick<Clock, 'monotonic'>,
  limits: AdmissionLimits = defaultAdmissionLimits,
): AdmissionGate {
  // Until when an account is kept out, on the monotonic clock; in the order of their last failure.
  const keptOut = new Map<string, number>();
  const waiting: (() => void)[] = [];
  let running = 0;

  const enter = (): Promise<void> => {
    if (running < limits.concurrent) {
      running += 1;
      return Promise.resolve();
    }
    if (waiting.length >= limits.waiting) {
      return Promise.reject(new SpiffeError('limited', 'admission.queue', 'too many nodes are being attested, try again later'));
    }
    return new Promise((resolve) => waiting.push(resolve));
  };
  // The turn is handed on, so `running` stays as it is.
  const leave = (): void => {
    const next = waiting.shift();
    if (next === undefined) running -= 1;
    else next();
  };

  const check = (accounts: readonly string[]): void => {
    const now = clock.monotonic();
    if (accounts.some((account) => (keptOut.get(account) ?? 0) > now)) {
      throw new SpiffeError('limited', 'admission.failures', 'too many failed attempts, try again later');
    }
  };

  const penalize = (account: string): void => {
    const now = clock.monotonic();
    const until = Math.max(now, keptOut.get(account) ?? 0) + limits.failureMs;
    keptOut.delete(account);
    keptOut.set(account, Math.min(until, now + longestPenaltyMs));
    if (keptOut.size <= maxAccounts) return;
    const [oldest] = keptOut.keys();
    if (oldest !== undefined) keptOut.delete(oldest);
  };

  return {
    async run({ accounts }, work, isFailure) {
      // Before the queue, so that those kept out take no place in it, and after, since it may have been long.
      check(accounts);
      await enter();
      let inside = true;
      const pause: Pause = async (outside) => {
        inside = false;
        leave();
        const result = await outside();
        await enter();
        inside = true;
        return result;
      };
      try {
        check(accounts);
        return await work(pause);
      } catch (error) {
        if (isFailure(error)) for (const account of accounts) penalize(account);
        throw error;
      } finally {
        if (inside) leave();
      }
    },
  };
}

/** One account for an IPv4 address, and for the 64 bits of an IPv6 address that one site can vary below. */
export function addressAccount(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  if (mapped !== null) return `address ${mapped[1]}`;
  if (!address.includes(':')) return `address ${address}`;
  return `address ${networkOf(address)}`;
}

function networkOf(address: string): string {
  const [text = ''] = address.split('%');
  const [head = '', tail] = text.split('::');
  const front = head === '' ? [] : head.split(':');
  const back = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - front.length - back.length);
  const groups = [...front, ...Array.from({ length: zeros }, () => '0'), ...back];
  return groups
    .slice(0, 4)
    .map((group) => group.toLowerCase().replace(/^0+(?=.)/, ''))
    .join(':');
}
