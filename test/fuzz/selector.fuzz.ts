/**
 * Selectors, and the rules of an entry that has them: what is accepted is split and joined without loss, and stays within
 * its bounds.
 */
import type { EntryDraft } from '../../spiffe/entry.ts';
import { checkEntryDraft, entryLimits, matchKey } from '../../spiffe/entry.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { Selector } from '../../spiffe/selector.ts';
import { canonicalSelectors, composeSelector, parseSelector, selectorType, selectorValue } from '../../spiffe/selector.ts';
import { expected } from './expected.ts';

export const name = 'selector';

export function corpus(): Uint8Array[] {
  return [
    'unix:uid:1000',
    'unix:path:/usr/bin/a b',
    'k8s:pod-label:app:web\nk8s:ns:prod',
    'docker:label:a:b:c',
    ':',
    'a:',
    ':b',
    '',
    'a::',
    'a:b\na:b',
    'unix:sha256:0b5f',
    'unix:path:/tmp/\0x',
    `unix:path:/${'x'.repeat(4095)}`,
    'é:ü',
    'web.example.org',
    '*.example.org',
    'xn--ls8h.org',
  ].map((text) => Buffer.from(text));
}

const draft: EntryDraft = {
  spiffeId: 'spiffe://example.org/web' as SpiffeId,
  parentId: 'spiffe://example.org/spire/agent/a' as SpiffeId,
  selectors: [],
  x509SvidTtlSeconds: 0,
  jwtSvidTtlSeconds: 0,
  federatesWith: [],
  dnsNames: [],
  admin: false,
  downstream: false,
  storeSvid: false,
  hint: '',
  disableX509SvidPrefetch: false,
  jwtSvidIncludeJti: false,
  forbidCache: false,
  expiresAt: undefined,
};

/** Repeats are refused as what exists already, as SPIRE's store does. */
function checked(change: Partial<EntryDraft>): EntryDraft | undefined {
  const selectors = change.selectors ?? ['a:1' as Selector];
  if (new Set(selectors).size !== selectors.length) return undefined;
  return expected(() => checkEntryDraft({ ...draft, selectors, ...change }, 'example.org' as TrustDomain));
}

export function run(input: Uint8Array): void {
  const text = Buffer.from(input).toString('utf8');
  const selector = expected(() => parseSelector(text));
  if ((selector !== undefined) !== /^[^:]+:[^]+$/.test(text)) throw new Error('parser and grammar disagree');
  if (selector !== undefined && composeSelector(selectorType(selector), selectorValue(selector)) !== text) {
    throw new Error('selector is not its own text');
  }
  const lines = text.split('\n') as unknown as Selector[];
  const entry = checked({ selectors: lines });
  if (entry !== undefined) {
    if (entry.selectors.length > entryLimits.selectors) throw new Error('too many selectors');
    if (matchKey(entry) !== matchKey({ ...entry, selectors: canonicalSelectors(entry.selectors).toReversed() })) {
      throw new Error('key depends on order');
    }
  }
  if (checked({ dnsNames: [text] }) !== undefined && !/^(?:\*\.)?[a-z0-9.-]{1,253}$/.test(text)) throw new Error('no DNS name');
  if (checked({ hint: text }) !== undefined && input.length > 3 * entryLimits.hintBytes) throw new Error('hint is too long');
  checked({ id: text });
  checked({ spiffeId: text as SpiffeId, parentId: text as SpiffeId, federatesWith: [text as TrustDomain] });
}
