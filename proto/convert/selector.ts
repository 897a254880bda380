/**
 * Selectors, and the filters that match a set of selectors or of trust domains, between messages and domain values. How a
 * filter is applied is left to whoever lists.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { trustDomainFromText, type TrustDomain } from '../../spiffe/id.ts';
import { composeSelector, selectorType, selectorValue, type Selector } from '../../spiffe/selector.ts';
import type { FederatesWithMatch, FederatesWithMatch__Output } from '../gen/spire/api/types/FederatesWithMatch.ts';
import type { Selector as SelectorMessage, Selector__Output } from '../gen/spire/api/types/Selector.ts';
import type { SelectorMatch, SelectorMatch__Output } from '../gen/spire/api/types/SelectorMatch.ts';
import { namedValue } from './scalar.ts';

/** What the candidate must be to the set asked for: the same, a part of it, all of it and maybe more, or overlapping. */
export type MatchBehavior = 'exact' | 'subset' | 'superset' | 'any';

/** A set to compare candidates with, never empty. */
export interface SetMatch<Member extends string> {
  readonly members: ReadonlySet<Member>;
  readonly behavior: MatchBehavior;
}

const behaviors = { MATCH_EXACT: 'exact', MATCH_SUBSET: 'subset', MATCH_SUPERSET: 'superset', MATCH_ANY: 'any' } as const;
const behaviorNames = { exact: 'MATCH_EXACT', subset: 'MATCH_SUBSET', superset: 'MATCH_SUPERSET', any: 'MATCH_ANY' } as const;

export function selectorToMessage(selector: Selector): SelectorMessage {
  return { type: selectorType(selector), value: selectorValue(selector) };
}

export function selectorsToMessages(selectors: Iterable<Selector>): SelectorMessage[] {
  return Array.from(selectors, selectorToMessage);
}

/** @throws invalid `selector.type.missing|colon`, `selector.value.missing` */
export function selectorFromMessage(message: Selector__Output): Selector {
  return composeSelector(message.type, message.value);
}

/**
 * In the order of the message, repeats included.
 * @throws invalid as `selectorFromMessage`
 */
export function selectorsFromMessages(messages: readonly Selector__Output[]): readonly Selector[] {
  return Object.freeze(messages.map(selectorFromMessage));
}

/** @throws invalid `proto.match.empty`, `proto.enum.unknown` and as `selectorFromMessage` */
export function selectorMatchFromMessage(message: SelectorMatch__Output): SetMatch<Selector> {
  if (message.selectors.length === 0) throw new SpiffeError('invalid', 'proto.match.empty', 'empty selector set');
  return Object.freeze({
    members: new Set(message.selectors.map(selectorFromMessage)),
    behavior: namedValue(behaviors, message.match, 'match'),
  });
}

export function selectorMatchToMessage(match: SetMatch<Selector>): SelectorMatch {
  return { selectors: selectorsToMessages(match.members), match: behaviorNames[match.behavior] };
}

/** @throws invalid `proto.match.empty`, `proto.enum.unknown` and the `id.*` reasons of `trustDomainFromText` */
export function federatesWithMatchFromMessage(message: FederatesWithMatch__Output): SetMatch<TrustDomain> {
  if (message.trust_domains.length === 0) throw new SpiffeError('invalid', 'proto.match.empty', 'empty trust domain set');
  return Object.freeze({
    members: new Set(message.trust_domains.map(trustDomainFromText)),
    behavior: namedValue(behaviors, message.match, 'match'),
  });
}

export function federatesWithMatchToMessage(match: SetMatch<TrustDomain>): FederatesWithMatch {
  return { trust_domains: [...match.members], match: behaviorNames[match.behavior] };
}
