/**
 * Carries out what `slots.ts` says is due, one action at a time: do it, store the new state, ask again. A stop at any
 * point leaves either the old state or the new one, and at most a key that nothing refers to, which the next start drops.
 */
import { linkedController } from '../../runtime/abort.ts';
import { backoffMs } from '../../runtime/backoff.ts';
import type { Clock } from '../../runtime/clock.ts';
import { createWatch } from '../../runtime/watch.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import type { AuditEvent } from '../audit/event.ts';
import { serverScope, witness } from '../audit/scope.ts';
import type { AuthorityKind, AuthorityRecord, AuthorityStep, KeyType, Scope, Store } from '../store/store.ts';
import { activeJwtFrom, activeX509From, type ActiveAuthorities } from './active.ts';
import type { KeyStore } from './keys.ts';
import { matchKeys } from './match-keys.ts';
import { createPreparer } from './prepare.ts';
import { activeOf, planSlots, preparedOf, unconfirmedFor, type Delivery, type SlotAction, type SlotPolicy } from './slots.ts';
import type { Upstream } from './upstream.ts';

/** What every trust domain has; `wit` is there only where it is configured. */
const usualKinds: readonly AuthorityKind[] = ['x509', 'jwt'];

export interface AuthorityPolicy {
  readonly keyType: KeyType;
  readonly lifeMs: number;
  readonly slots: SlotPolicy;
}

export interface RotationDeps {
  readonly trustDomain: TrustDomain;
  /** Names this server among those that share the store. */
  readonly owner: string;
  readonly clock: Clock;
  readonly store: Pick<Store, 'position' | 'loadAuthorities' | 'stepAuthorities' | 'pruneBundle'>;
  readonly keys: KeyStore;
  readonly upstream: Upstream;
  readonly delivery: Delivery;
  /** Which authorities there are to be: X.509 and JWT, and further kinds; those alone when absent. */
  readonly furtherKinds?: readonly AuthorityKind[];
  /** Asked anew for every plan, so that a reload takes effect. */
  readonly policy: (kind: AuthorityKind) => AuthorityPolicy;
  /** Told of every failure in the background, and with `undefined` when it is over. */
  readonly onProblem: (problem: unknown) => void;
}

export interface Rotation {
  readonly active: ActiveAuthorities;
  list(): readonly AuthorityRecord[];
  stateOf(kind: AuthorityKind): readonly AuthorityRecord[];
  /** @throws conflict `authority.prepared-already`, invalid `authority.kind`, and what keys, upstream and store throw */
  prepare(kind: AuthorityKind, scope: Scope): Promise<AuthorityRecord>;
  /**
   * @throws invalid `authority.id.missing|unexpected`, `authority.kind`, internal `authority.not-prepared`, and what the store
   *   throws
   */
  activate(kind: AuthorityKind, id: string, scope: Scope): Promise<AuthorityRecord>;
  /** To be called when an agent confirmed something or left: somebody may no longer be waited for. */
  wake(): void;
  /** Keeps rotating until the signal aborts. */
  run(signal: AbortSignal): Promise<void>;
}

/** Names in an event; the count beside them is exact. */
const maxNamed = 50;

/**
 * Matches keys and records, then carries out what is due, so that all kinds have an active authority when it resolves.
 * @throws conflict `authority.key.missing|mismatch|foreign`, and what keys, upstream and store throw
 */
export async function openRotation(deps: RotationDeps): Promise<Rotation> {
  const { trustDomain, clock, store, keys, delivery } = deps;
  const kinds: readonly AuthorityKind[] = [...usualKinds, ...(deps.furtherKinds ?? [])];
  const preparer = createPreparer(deps);
  let records = new Map<string, AuthorityRecord>();
  // After a failure nobody knows what took effect; the store is asked before anything else is done.
  let stale = true;
  let wake: () => void = () => undefined;
  let tell: () => void = () => undefined;

  const stateOf = (kind: AuthorityKind): readonly AuthorityRecord[] =>
    [...records.values()].filter((record) => record.kind === kind);

  const activeRecord = (kind: AuthorityKind): AuthorityRecord => {
    const record = activeOf(stateOf(kind));
    if (record === undefined) throw new SpiffeError('unavailable', 'authority.none', 'server is initializing');
    return record;
  };

  const take = (loaded: readonly AuthorityRecord[]): void => {
    records = new Map(loaded.filter((record) => record.owner === deps.owner).map((record) => [record.id, record]));
    tell();
  };

  const reload = async (): Promise<void> => {
    take(await store.loadAuthorities());
    stale = false;
  };

  const step = async (scope: Scope, changed: Partial<AuthorityStep>): Promise<void> => {
    const empty: AuthorityStep = { upserts: [], forgotten: [], publish: { x509: [], jwt: [] }, events: [] };
    const stored = await store.stepAuthorities(trustDomain, { ...empty, ...changed }, scope);
    for (const record of stored) if (record.owner === deps.owner) records.set(record.id, record);
    for (const id of changed.forgotten ?? []) records.delete(id);
    tell();
  };

  const prepare = async (kind: AuthorityKind, scope: Scope): Promise<AuthorityRecord> => {
    const inUse = new Set([...records.values()].map((record) => record.keyName));
    const record = await preparer.prepare(kind, inUse);
    const detail = { kind, keyType: record.keyType, expiresAt: record.expiresAt };
    await step(scope, { upserts: [record], events: [witness(scope, 'authority.prepared', { subject: record.id, detail })] });
    return record;
  };

  const publish = async (record: AuthorityRecord, scope: Scope): Promise<void> => {
    const { kind, id: keyId, publicKey, certificate, expiresAt } = record;
    await step(scope, {
      upserts: [{ ...record, publishedAt: scope.at, publishedRevision: undefined }],
      publish: {
        x509: certificate === undefined ? [] : [{ certificate, tainted: false }],
        jwt: kind === 'jwt' ? [{ keyId, publicKey, expiresAt, tainted: false }] : [],
        wit: kind === 'wit' ? [{ keyId, publicKey, expiresAt, tainted: false }] : [],
      },
      events: [witness(scope, 'authority.published', { subject: record.id, detail: { kind } })],
    });
    if (records.get(record.id)?.publishedRevision === undefined) {
      const message = `the store did not say by which revision ${record.id} was published`;
      throw new SpiffeError('internal', 'authority.unpublished', message);
    }
  };

  const activate = async (action: SlotAction & { type: 'activate' }, scope: Scope): Promise<void> => {
    const { record, retired, unconfirmed } = action;
    const detail = { kind: record.kind, retired: retired?.id ?? '' };
    const events: AuditEvent[] = [witness(scope, 'authority.activated', { subject: record.id, detail })];
    if (unconfirmed.length > 0) {
      const waited = { kind: record.kind, agents: unconfirmed.slice(0, maxNamed), count: unconfirmed.length };
      events.push(witness(scope, 'authority.unconfirmed', { subject: record.id, detail: waited }));
    }
    await step(scope, {
      upserts: [
        ...(retired === undefined ? [] : [{ ...retired, state: 'old' as const }]),
        { ...record, state: 'active', activatedAt: scope.at },
      ],
      events,
    });
  };

  const forget = async (record: AuthorityRecord, scope: Scope): Promise<void> => {
    await store.pruneBundle(trustDomain, record.expiresAt + 1, scope);
    const event = witness(scope, 'authority.forgotten', { subject: record.id, detail: { kind: record.kind } });
    await step(scope, { forgotten: [record.id], events: [event] });
    await keys.forget(record.keyName);
  };

  const perform = async (kind: AuthorityKind, action: SlotAction, scope: Scope): Promise<void> => {
    switch (action.type) {
      case 'prepare':
        await prepare(kind, scope);
        return;
      case 'publish':
        return publish(action.record, scope);
      case 'activate':
        return activate(action, scope);
      case 'forget':
        return forget(action.record, scope);
    }
  };

  /** Of a kind that is configured no more: nothing new, and what there was goes when nobody needs it any longer. */
  const expire = async (kind: AuthorityKind): Promise<number> => {
    if (stale) await reload();
    const { graceMs } = deps.policy(kind).slots;
    const now = clock.now();
    for (const record of stateOf(kind)) if (record.expiresAt + graceMs <= now) await forget(record, serverScope(now));
    return Math.min(Number.POSITIVE_INFINITY, ...stateOf(kind).map((record) => record.expiresAt + graceMs));
  };

  /** Does all that is due; tells when to look again. */
  const settle = async (kind: AuthorityKind): Promise<number> => {
    for (;;) {
      if (stale) await reload();
      const now = clock.now();
      const { due, nextAt } = planSlots(stateOf(kind), now, deps.policy(kind).slots, delivery);
      const [action] = due;
      if (action === undefined) return nextAt ?? now;
      await perform(kind, action, serverScope(now));
    }
  };

  // One thing at a time: an operator's step and the plan's never overlap.
  let turn: Promise<unknown> = Promise.resolve();
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const done = turn.then(async () => {
      try {
        if (stale) await reload();
        return await work();
      } catch (error) {
        stale = true;
        throw error;
      }
    });
    turn = done.catch(() => undefined);
    return done;
  };

  const settleAll = (): Promise<number> =>
    inTurn(async () => {
      let nextAt = Number.POSITIVE_INFINITY;
      const failures: unknown[] = [];
      const left = new Set([...records.values()].map(({ kind }) => kind).filter((kind) => !kinds.includes(kind)));
      // An upstream that is away does not keep the other kinds from rotating.
      for (const kind of [...kinds, ...left]) {
        try {
          nextAt = Math.min(nextAt, await (kinds.includes(kind) ? settle(kind) : expire(kind)));
        } catch (error) {
          stale = true;
          failures.push(error);
        }
      }
      if (failures.length > 0) throw failures[0];
      return nextAt;
    });

  await reload();
  await matchKeys([...records.values()], keys, preparer.mark);
  await settleAll();
  const x509 = createWatch(activeX509From(activeRecord('x509'), trustDomain));
  const jwt = createWatch(activeJwtFrom(activeRecord('jwt')));
  const wit = kinds.includes('wit') ? createWatch(activeJwtFrom(activeRecord('wit'))) : undefined;
  tell = () => {
    const next = { x509: activeRecord('x509'), jwt: activeRecord('jwt') };
    if (x509.value.id !== next.x509.id) x509.set(activeX509From(next.x509, trustDomain));
    if (jwt.value.id !== next.jwt.id) jwt.set(activeJwtFrom(next.jwt));
    if (wit !== undefined && wit.value.id !== activeRecord('wit').id) wit.set(activeJwtFrom(activeRecord('wit')));
  };

  const requireKind = (kind: AuthorityKind): void => {
    if (kinds.includes(kind)) return;
    const message = `this server has no ${kind} authorities: its configuration does not ask for any`;
    throw new SpiffeError('invalid', 'authority.kind', message);
  };

  return {
    active: { x509, jwt, wit },
    list: () => [...records.values()],
    stateOf,
    prepare: (kind, scope) =>
      inTurn(async () => {
        requireKind(kind);
        const waiting = preparedOf(stateOf(kind), clock.now());
        if (waiting !== undefined) {
          const message = `authority ${waiting.id} is prepared already: activate it`;
          throw new SpiffeError('conflict', 'authority.prepared-already', message);
        }
        const { id } = await prepare(kind, scope);
        await publish(known(records, id), scope);
        wake();
        return known(records, id);
      }),
    activate: (kind, id, scope) =>
      inTurn(async () => {
        requireKind(kind);
        if (id === '') throw new SpiffeError('invalid', 'authority.id.missing', 'no authority ID provided');
        const chosen = stateOf(kind).find((record) => record.id === id);
        if (chosen === undefined) throw new SpiffeError('invalid', 'authority.id.unexpected', 'unexpected authority ID');
        if (chosen !== preparedOf(stateOf(kind), clock.now())) {
          const message = `only Prepared authorities can be activated: authority is ${chosen.state}`;
          throw new SpiffeError('internal', 'authority.not-prepared', message);
        }
        if (chosen.publishedRevision === undefined) await publish(chosen, scope);
        const record = known(records, id);
        const unconfirmed = unconfirmedFor(record, scope.at, deps.policy(kind).slots, delivery);
        await activate({ type: 'activate', record, retired: activeOf(stateOf(kind)), unconfirmed }, scope);
        wake();
        return known(records, id);
      }),
    wake: () => wake(),
    async run(signal) {
      let failures = 0;
      while (!signal.aborted) {
        const rest = linkedController(signal);
        wake = () => rest.abort(new Error('woken'));
        try {
          const nextAt = await settleAll();
          if (failures > 0) deps.onProblem(undefined);
          failures = 0;
          await clock.sleepUntil(nextAt, rest.signal).catch(() => undefined);
        } catch (error) {
          failures += 1;
          deps.onProblem(error);
          await clock.sleep(backoffMs(failures, 0.5), signal).catch(() => undefined);
        } finally {
          rest.unlink();
        }
      }
      wake = () => undefined;
    },
  };
}

function known(records: ReadonlyMap<string, AuthorityRecord>, id: string): AuthorityRecord {
  const record = records.get(id);
  if (record === undefined) throw new SpiffeError('internal', 'authority.lost', `the store did not return authority ${id}`);
  return record;
}
