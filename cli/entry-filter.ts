/**
 * Which entries are meant: the flags that narrow a listing, and the filter that is sent. Listing is the entry commands'.
 */
import { idToMessage } from '../proto/convert/id.ts';
import { federatesWithMatchToMessage, selectorMatchToMessage } from '../proto/convert/selector.ts';
import { parseSpiffeId, trustDomainFromText } from '../spiffe/id.ts';
import { parseSelector } from '../spiffe/selector.ts';
import type { FlagSpecs, FlagValues } from './flags.ts';

export const filterFlags = {
  'spiffe-id': { type: 'text', value: 'ID', summary: 'entries that give this identity' },
  'parent-id': { type: 'text', value: 'ID', summary: 'entries below this parent' },
  selector: { type: 'list', value: 'TYPE:VALUE', summary: 'entries with these selectors' },
  'match-selectors-on': { type: 'text', summary: 'how selectors compare', choices: ['exact', 'subset', 'superset', 'any'] },
  'federates-with': { type: 'list', value: 'DOMAIN', summary: 'entries that federate with these' },
  'match-federates-with-on': { type: 'text', summary: 'how trust domains compare', choices: ['exact', 'subset', 'superset', 'any'] },
  hint: { type: 'text', value: 'TEXT', summary: 'entries with this hint' },
  downstream: { type: 'switch', summary: 'entries of downstream servers' },
} as const satisfies FlagSpecs;

type Behavior = 'exact' | 'subset' | 'superset' | 'any';

/** @throws invalid, as the parsers of IDs and selectors */
export function filterOf(flags: FlagValues<typeof filterFlags>): object {
  return {
    ...(flags['spiffe-id'] !== undefined && { by_spiffe_id: idToMessage(parseSpiffeId(flags['spiffe-id'])) }),
    ...(flags['parent-id'] !== undefined && { by_parent_id: idToMessage(parseSpiffeId(flags['parent-id'])) }),
    ...(flags.selector.length > 0 && {
      by_selectors: selectorMatchToMessage({
        members: new Set(flags.selector.map(parseSelector)),
        behavior: (flags['match-selectors-on'] ?? 'superset') as Behavior,
      }),
    }),
    ...(flags['federates-with'].length > 0 && {
      by_federates_with: federatesWithMatchToMessage({
        members: new Set(flags['federates-with'].map(trustDomainFromText)),
        behavior: (flags['match-federates-with-on'] ?? 'superset') as Behavior,
      }),
    }),
    ...(flags.hint !== undefined && { by_hint: { value: flags.hint } }),
    ...(flags.downstream !== undefined && { by_downstream: { value: flags.downstream } }),
  };
}
