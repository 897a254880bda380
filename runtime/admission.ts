/**
 * How many connections a user may hold and how fast it may open them: counts per uid and a bucket of tokens that refills
 * with time. Whom the limits protect from whom is the business of whoever sets them.
 */

export interface AdmissionLimits {
  readonly connectionsPerUid: number;
  /** Also the number that may come at once after a quiet second. */
  readonly connectsPerSecondPerUid: number;
  readonly total: number;
}

export type AdmissionRefusal = 'connections' | 'total' | 'rate';

export interface Admission {
  /** Why a connection of this uid may not stay; every attempt costs a token, refused or not by the other limits. */
  refuses(uid: number, nowMs: number): AdmissionRefusal | undefined;
  enter(uid: number, nowMs: number): void;
  leave(uid: number): void;
}

interface Account {
  connections: number;
  tokens: number;
  filledAt: number;
}

/** More uids than this are only remembered while they hold a connection or lack a token. */
const PRUNE_ABOVE = 4096;

export function createAdmission(limits: AdmissionLimits): Admission {
  const accounts = new Map<number, Account>();
  const rate = limits.connectsPerSecondPerUid;
  const burst = Math.max(1, rate);
  let total = 0;
  let pruneAbove = PRUNE_ABOVE;

  const prune = (nowMs: number): void => {
    for (const [uid, account] of accounts) {
      if (account.connections === 0 && account.tokens + ((nowMs - account.filledAt) * rate) / 1000 >= burst) accounts.delete(uid);
    }
    pruneAbove = Math.max(PRUNE_ABOVE, accounts.size * 2);
  };

  const accountOf = (uid: number, nowMs: number): Account => {
    let account = accounts.get(uid);
    if (account === undefined) {
      if (accounts.size >= pruneAbove) prune(nowMs);
      account = { connections: 0, tokens: burst, filledAt: nowMs };
      accounts.set(uid, account);
    }
    return account;
  };

  return {
    refuses(uid, nowMs) {
      const account = accountOf(uid, nowMs);
      const elapsed = Math.max(0, nowMs - account.filledAt);
      account.tokens = Math.min(burst, account.tokens + (elapsed * rate) / 1000);
      account.filledAt = nowMs;
      if (account.tokens < 1) return 'rate';
      account.tokens -= 1;
      if (account.connections >= limits.connectionsPerUid) return 'connections';
      return total >= limits.total ? 'total' : undefined;
    },
    enter(uid, nowMs) {
      accountOf(uid, nowMs).connections += 1;
      total += 1;
    },
    leave(uid) {
      const account = accounts.get(uid);
      if (account === undefined || account.connections === 0) return;
      account.connections -= 1;
      total -= 1;
    },
  };
}
