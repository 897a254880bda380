/**
 * Which form of trust a proxy is given: Envoy's SPIFFE validator, or plain authorities, as the agent's configuration, the
 * proxy's metadata and its version say. How either is written is `messages.ts`.
 */

/** What a proxy says of itself, as far as it matters here. */
export interface ProxyNode {
  /** `disable_spiffe_cert_validation` of its metadata, when it is of a type that could be meant. */
  readonly disableSpiffeValidation: boolean | string | undefined;
  readonly version: { readonly major: number; readonly minor: number } | undefined;
}

export type Validator = 'spiffe' | 'authorities';

const yes: ReadonlySet<string> = new Set(['1', 't', 'T', 'true', 'TRUE', 'True']);
const no: ReadonlySet<string> = new Set(['0', 'f', 'F', 'false', 'FALSE', 'False']);

/** @param node `undefined` for a proxy that says nothing of itself */
export function validatorFor(node: ProxyNode | undefined, configured: Validator): Validator {
  const wish = node?.disableSpiffeValidation;
  const disabled = typeof wish === 'string' ? (yes.has(wish) ? true : no.has(wish) ? false : undefined) : wish;
  const chosen = disabled === undefined ? configured : disabled ? 'authorities' : 'spiffe';
  // Envoy has the validator since 1.18, and no version 0 is in use.
  const { major, minor } = node?.version ?? { major: 2, minor: 0 };
  return major > 1 || (major === 1 && minor > 17) ? chosen : 'authorities';
}
