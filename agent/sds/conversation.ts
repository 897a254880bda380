/**
 * One stream of secrets from its first request to its end: requests, updates and tokens that come due are taken in turn,
 * and after each what the dialect finds new is sent. Nothing leaves to another process than the one that connected, and
 * what leaves is recorded.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { CallContext } from '../../runtime/rpc/handlers.ts';
import type { HeldJwtSvid } from '../svids/held.ts';
import type { Tokens } from '../svids/tokens.ts';
import type { Caller } from '../workload/caller.ts';
import { requireSame } from '../workload/same-process.ts';
import { callerUpdates, type CallerUpdate, type UpdatesOptions } from '../workload/updates.ts';
import { createHandover, type Witness } from '../workload/witness.ts';
import type { Dialect, Said } from './dialect.ts';
import { secretsOf, type SecretParts } from './secrets.ts';
import { createBell, openSlot } from './slot.ts';
import { createStreamTokens, type StreamTokens, type TokenMeaning } from './tokens.ts';
import { validatorFor, type ProxyNode, type Validator } from './validator.ts';

/** What goes wrong at a proxy, or is asked for in vain; for the log and the metrics. */
export interface SdsObserver {
  /**
   * A proxy could not use what it was sent.
   * @param message in its own words, cut short
   * @param quiet whether the same stream said so a moment ago
   */
  rejected(caller: Caller, message: string, quiet: boolean): void;
  /** Names mean nothing to this caller. Told again when they are others, once in a while. */
  unknown(caller: Caller, names: readonly string[]): void;
}

export interface ConversationParts extends UpdatesOptions, SecretParts {
  readonly clock: Clock;
  readonly tokens: Pick<Tokens, 'fetch'>;
  readonly witness: Witness;
  readonly observer: SdsObserver;
  /** Whether callers without an identity may have the own trust domain's bundle. */
  readonly bundlesForAll: boolean;
  readonly validator: Validator;
}

/** A request in its dialect, with what the proxy says of itself if it does. */
export interface Asked<Request> {
  readonly request: Request;
  readonly node: ProxyNode | undefined;
}

/** One way of streaming, for one stream. */
export interface Way<Message, Request, Response> {
  readonly dialect: Dialect<Request>;
  readonly read: (message: Message) => Asked<Request>;
  readonly compose: (said: Said) => Response;
}

/** What a stream may ask in a burst, and every second from then on. */
const burst = 1_000;
const perSecond = 50;
/** Between two tales of the same trouble with one stream. */
const quietMs = 60_000;

/**
 * Ends when the caller has said all it had to say and was answered.
 * @throws limited `sds.names|tokens|requests`, denied `peer.*`, and as `callerUpdates` and `read` do
 */
export async function* converse<Message, Request, Response>(
  parts: ConversationParts,
  { connection: caller, method, signal }: Pick<CallContext<Caller>, 'connection' | 'method' | 'signal'>,
  messages: AsyncIterable<Message>,
  { dialect, read, compose }: Way<Message, Request, Response>,
): AsyncGenerator<Response> {
  const { clock, witness } = parts;
  const bell = createBell(clock, signal);
  const pace = createPace(clock);
  let trouble: Trouble | undefined;
  const record = createRecord(witness, caller);
  const asked = openSlot(messages, bell.ring);
  const updates = openSlot(callerUpdates(parts, { caller, svids: false, unregistered: parts.bundlesForAll }, signal), bell.ring);
  // Few streams have any.
  let tokens: StreamTokens | undefined;
  const token = (meaning: TokenMeaning): HeldJwtSvid | undefined => {
    tokens ??= createStreamTokens({ clock, tokens: parts.tokens, process: caller.process, signal, ring: bell.ring });
    return tokens.look(meaning);
  };
  let node: ProxyNode | undefined;
  let newest: CallerUpdate | undefined;
  try {
    for (;;) {
      const message = asked.take();
      if (message !== undefined) {
        pace.step();
        const ask = read(message);
        node = ask.node ?? node;
        const complaint = dialect.take(ask.request);
        if (complaint !== undefined) (trouble ??= createTrouble(parts, caller)).rejected(complaint);
      }
      const update = updates.take();
      if (update !== undefined) {
        newest = update;
        record.came(update);
        tokens?.recheck(update.update.bundles.get(parts.trustDomain)?.jwtAuthorities ?? []);
      }
      const { selection } = dialect;
      if (newest !== undefined && selection !== undefined) {
        const validator = validatorFor(node, parts.validator);
        const secrets = secretsOf(parts, { selection, update: newest.update, validator, token });
        tokens?.prune();
        const unknown = [...selection.names].filter((name) => !secrets.has(name));
        if (unknown.length > 0) trouble ??= createTrouble(parts, caller);
        trouble?.unknown(unknown);
        const said = dialect.say(secrets);
        if (said !== undefined) {
          requireSame(caller.peer);
          // Before it leaves, so that nothing leaves unrecorded.
          record.sent(said);
          yield compose(said);
          if (update !== undefined) witness.updated(update.update.committedAt);
        }
      }
      update?.sent();
      if (message !== undefined || update !== undefined) continue;
      if (asked.ended && (newest !== undefined || selection === undefined)) return;
      await bell.wait(tokens?.nextAt);
    }
  } catch (error) {
    if (!signal.aborted && error instanceof SpiffeError) witness.refused(caller, method, error);
    throw error;
  } finally {
    asked.close();
    updates.close();
    witness.closed(caller, method);
  }
}

export interface DeliveryRecord {
  came(update: CallerUpdate): void;
  /** Once for each X509-SVID, however many names and messages it leaves by. */
  sent(said: Pick<Said, 'secrets'>): void;
}

export function createRecord(witness: Witness, caller: Caller): DeliveryRecord {
  const handover = createHandover(witness, caller);
  let matched = false;
  return {
    came(next) {
      const { entries } = next.update;
      if (!matched && entries.length > 0) {
        matched = true;
        witness.matched(caller, next);
      }
      handover.keep(entries);
    },
    sent: ({ secrets }) => handover.leaving(secrets.flatMap(({ svid }) => (svid === undefined ? [] : [svid]))),
  };
}

/** @returns what throws limited `sds.requests` when a stream asks faster than any proxy does */
function createPace(clock: Clock): { step(): void } {
  let left = burst;
  let at = clock.monotonic();
  return {
    step() {
      const now = clock.monotonic();
      left = Math.min(burst, left + ((now - at) / 1_000) * perSecond) - 1;
      at = now;
      if (left < 0) throw new SpiffeError('limited', 'sds.requests', 'too many requests on one stream');
    },
  };
}

interface Trouble {
  rejected(message: string): void;
  unknown(names: readonly string[]): void;
}

/** Most streams have none. */
function createTrouble({ clock, observer }: ConversationParts, caller: Caller): Trouble {
  let rejectedAt: number | undefined;
  let unknownAt: number | undefined;
  let unknown = '';
  const isRecent = (at: number | undefined): boolean => at !== undefined && clock.monotonic() - at < quietMs;
  return {
    rejected(message) {
      const quiet = isRecent(rejectedAt);
      observer.rejected(caller, message, quiet);
      if (!quiet) rejectedAt = clock.monotonic();
    },
    unknown(names) {
      const now = names.join('\n');
      if (now === unknown || (now !== '' && isRecent(unknownAt))) return;
      unknown = now;
      if (now === '') return;
      unknownAt = clock.monotonic();
      observer.unknown(caller, names);
    },
  };
}
