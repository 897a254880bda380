/**
 * Flags: their declaration, SPIRE's spellings as aliases of ours, and the arguments of one command parsed against its
 * declarations. What a flag means is left to the command.
 */
import { SpiffeError } from '../spiffe/errors.ts';

export interface FlagSpec {
  /** `list` may be given several times; `switch` takes no value, or `=true` and `=false`. */
  readonly type: 'text' | 'list' | 'number' | 'duration' | 'switch';
  /** Shown for the value in help, such as `ID`. */
  readonly value?: string;
  readonly summary: string;
  /** Closed set of values; completed by shells. */
  readonly choices?: readonly string[];
}

export type FlagSpecs = Readonly<Record<string, FlagSpec>>;

type ValueOf<S extends FlagSpec> = S['type'] extends 'list'
  ? readonly string[]
  : S['type'] extends 'switch'
    ? boolean | undefined
    : S['type'] extends 'number' | 'duration'
      ? number | undefined
      : string | undefined;

/** Durations are seconds. */
export type FlagValues<F extends FlagSpecs> = { readonly [K in keyof F]: ValueOf<F[K]> };

export interface ParsedFlags<F extends FlagSpecs> {
  readonly flags: FlagValues<F>;
  readonly positionals: readonly string[];
}

/** How SPIRE's CLI spells what we spell otherwise; looked up only where the command has our flag. */
export const spireSpellings: Readonly<Record<string, readonly string[]>> = {
  spiffeID: ['spiffe-id'],
  parentID: ['parent-id'],
  entryID: ['id'],
  x509SVIDTTL: ['x509-svid-ttl'],
  jwtSVIDTTL: ['jwt-svid-ttl'],
  federatesWith: ['federates-with'],
  entryExpiry: ['expires'],
  storeSVID: ['store-svid'],
  socketPath: ['socket'],
  disableX509SVIDPrefetch: ['disable-x509-svid-prefetch'],
  jwtSVIDIncludeJTI: ['jwt-svid-include-jti'],
  data: ['file'],
  attestationType: ['attestation-type'],
  canReattest: ['can-reattest'],
  expiresBefore: ['expires-before'],
  expiredFor: ['expired-for'],
  dryRun: ['dry-run'],
  matchSelectorsOn: ['match-selectors-on'],
  matchFederatesWithOn: ['match-federates-with-on'],
  authorityID: ['id'],
  tokenTTL: ['ttl'],
  logLevel: ['log-level'],
  trustDomain: ['trust-domain'],
  bundleEndpointURL: ['bundle-endpoint-url'],
  bundleEndpointProfile: ['bundle-endpoint-profile'],
  endpointSpiffeID: ['endpoint-spiffe-id'],
  trustDomainBundlePath: ['trust-domain-bundle-path'],
  trustDomainBundleFormat: ['trust-domain-bundle-format'],
  serverAddress: ['server-address'],
  serverPort: ['server-port'],
  joinToken: ['join-token'],
  trustBundle: ['trust-bundle'],
  dataDir: ['data-dir'],
  insecureBootstrap: ['insecure-bootstrap'],
  write: ['dir'],
};

const shortSpellings: Readonly<Record<string, string>> = { f: 'file', o: 'output', h: 'help' };

const durationUnits: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 };

/**
 * @throws invalid `cli.flag.unknown|value|missing-value|repeated`
 */
export function parseFlags<F extends FlagSpecs>(specs: F, args: readonly string[]): ParsedFlags<F> {
  const values: Record<string, string | number | boolean | string[] | undefined> = {};
  for (const [name, spec] of Object.entries(specs)) if (spec.type === 'list') values[name] = [];
  const positionals: string[] = [];
  const rest = [...args];
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === '--') {
      positionals.push(...rest);
      break;
    }
    // A lone dash is standard input, and a number below zero no flag.
    if (!/^(?:--.|-[A-Za-z])/.test(arg)) {
      positionals.push(arg);
      continue;
    }
    const equals = arg.indexOf('=');
    const written = arg.slice(0, equals < 0 ? undefined : equals);
    const name = resolveFlag(specs, written.replace(/^--?/, ''));
    const spec = name === undefined ? undefined : specs[name];
    if (name === undefined || spec === undefined) {
      throw new SpiffeError('invalid', 'cli.flag.unknown', `unknown flag ${written}${suggestion(specs, written)}`);
    }
    let text = equals < 0 ? undefined : arg.slice(equals + 1);
    if (text === undefined && spec.type !== 'switch') {
      text = rest.shift();
      if (text === undefined) throw new SpiffeError('invalid', 'cli.flag.missing-value', `--${name} needs a value`);
    }
    assign(values, name, spec, text);
  }
  return { flags: values as FlagValues<F>, positionals };
}

function assign(
  values: Record<string, string | number | boolean | string[] | undefined>,
  name: string,
  spec: FlagSpec,
  text: string | undefined,
): void {
  if (spec.type === 'list') {
    (values[name] as string[]).push(text ?? '');
    return;
  }
  if (values[name] !== undefined) {
    throw new SpiffeError('invalid', 'cli.flag.repeated', `--${name} is given twice`);
  }
  values[name] = parseValue(name, spec, text);
}

function parseValue(name: string, spec: FlagSpec, text: string | undefined): string | number | boolean {
  if (spec.type === 'switch') {
    if (text === undefined || text === 'true') return true;
    if (text === 'false') return false;
    throw wrongValue(name, 'true or false');
  }
  const value = text ?? '';
  if (spec.choices !== undefined && !spec.choices.includes(value)) throw wrongValue(name, `one of ${spec.choices.join(', ')}`);
  if (spec.type === 'number') {
    if (!/^\d{1,15}$/.test(value)) throw wrongValue(name, 'a whole number');
    return Number(value);
  }
  return spec.type === 'duration' ? parseDuration(name, value) : value;
}

/** `90`, `90s`, `5m`, `1h30m`, `2d` in seconds. */
function parseDuration(name: string, text: string): number {
  if (/^\d{1,12}$/.test(text)) return Number(text);
  if (!/^(\d{1,9}[smhd])+$/.test(text)) throw wrongValue(name, 'a duration such as 90s, 5m or 1h30m');
  let seconds = 0;
  for (const [, count, unit] of text.matchAll(/(\d+)([smhd])/g)) seconds += Number(count) * (durationUnits[unit ?? ''] ?? 0);
  return seconds;
}

function wrongValue(name: string, wanted: string): SpiffeError {
  return new SpiffeError('invalid', 'cli.flag.value', `--${name} wants ${wanted}`);
}

function resolveFlag(specs: FlagSpecs, written: string): string | undefined {
  if (Object.hasOwn(specs, written)) return written;
  const short = shortSpellings[written];
  if (short !== undefined && Object.hasOwn(specs, short)) return short;
  const spire = Object.hasOwn(spireSpellings, written) ? spireSpellings[written] : undefined;
  return spire?.find((name) => Object.hasOwn(specs, name));
}

function suggestion(specs: FlagSpecs, written: string): string {
  const wanted = written.replaceAll(/[^a-z]/gi, '').toLowerCase();
  const known = Object.keys(specs).map((name) => ({ name, plain: name.replaceAll('-', '') }));
  const near = known.find(({ plain }) => plain.startsWith(wanted) || wanted.startsWith(plain)) ?? known.find(({ plain }) => isSlipOf(wanted, plain));
  return near === undefined ? '' : `; did you mean --${near.name}?`;
}

/** One letter more, less or other than meant. */
function isSlipOf(written: string, meant: string): boolean {
  if (meant.length < 4 || Math.abs(written.length - meant.length) > 1) return false;
  let same = 0;
  while (same < meant.length && written[same] === meant[same]) same += 1;
  const [rest, wanted] = [written.slice(same), meant.slice(same)];
  return rest.slice(1) === wanted.slice(1) || rest.slice(1) === wanted || rest === wanted.slice(1);
}
