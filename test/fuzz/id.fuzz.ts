/**
 * SPIFFE IDs, whole and in parts: whatever is accepted keeps its text, and its parts make it again.
 */
import {
  composeSpiffeId,
  isMemberOf,
  parseSpiffeId,
  parseTrustDomain,
  pathOf,
  trustDomainFromText,
  trustDomainOf,
} from '../../spiffe/id.ts';
import { idCases } from '../vectors/generate-ids.ts';
import { expected } from './expected.ts';

export const name = 'id';

export function corpus(): Uint8Array[] {
  return idCases()
    .filter(({ why, text }) => (why === 'trap' || why.startsWith('ID-1')) && text.length < 5000)
    .map(({ text }) => Buffer.from(text));
}

/** The grammar in one expression, where the parser has steps. */
const grammar = /^spiffe:\/\/([a-z0-9._-]{1,255})((?:\/(?!\.{1,2}(?:\/|$))[A-Za-z0-9._-]+)*)$/;

export function run(input: Uint8Array): void {
  const text = Buffer.from(input).toString('utf8');
  const id = expected(() => parseSpiffeId(text));
  if ((id !== undefined) !== (grammar.test(text) && input.length <= 2048)) throw new Error('parser and grammar disagree');
  expected(() => parseTrustDomain(text));
  expected(() => trustDomainFromText(text));
  if (id === undefined) return;
  const trustDomain = trustDomainOf(id);
  if (id !== text || composeSpiffeId(trustDomain, pathOf(id)) !== text) throw new Error('ID is not its own text');
  if (!isMemberOf(id, parseTrustDomain(trustDomain))) throw new Error('ID is not of its own trust domain');
}
