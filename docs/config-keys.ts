/**
 * The keys of both configuration files, their defaults, and whether a reload applies them: asked of the schemas, not of
 * the text. Whether the page says the same is `check.ts`.
 */
import * as agent from '../agent/config.ts';
import * as server from '../server/config.ts';

export interface ConfigKey {
  /** As in `listen.port` and `attestors[].type`. */
  readonly name: string;
  /** As it is written in a file; `required` where its section needs it, `none` where it may be left out. */
  readonly default: string;
  /** Whether it takes effect without a restart. */
  readonly reloads: boolean;
}

/** What of a JSON schema is looked at. */
export interface SchemaNode {
  readonly type?: string | readonly string[];
  readonly properties?: Readonly<Record<string, SchemaNode>>;
  readonly required?: readonly string[];
  readonly default?: unknown;
  readonly items?: SchemaNode;
  readonly oneOf?: readonly SchemaNode[];
  readonly anyOf?: readonly SchemaNode[];
}

/** Sizes are parsed by a transformation, so that their defaults are known as numbers alone. */
const bytes = (value: number): string => (value % 1_073_741_824 === 0 ? `${value / 1_073_741_824}GiB` : value % 1_048_576 === 0 ? `${value / 1_048_576}MiB` : String(value));

export async function configKeys(): Promise<Readonly<Record<string, readonly ConfigKey[]>>> {
  const text = 'trust_domain: example.org';
  const one = server.parseServerConfig(text);
  const other = agent.parseAgentConfig(text);
  return Promise.resolve({
    Server: keysOf(server.schema.toJSONSchema({ io: 'input', unrepresentable: 'any' }) as SchemaNode, one, (changed) => server.restartKeys(one, changed as typeof one).length === 0),
    Agent: keysOf(agent.schema.toJSONSchema({ io: 'input', unrepresentable: 'any' }) as SchemaNode, other, (changed) => agent.restartKeys(other, changed as typeof other).length === 0),
  });
}

/**
 * @param parsed a configuration in which nothing but what is required is set
 * @param reloads whether another configuration takes effect without a restart
 */
export function keysOf(schema: SchemaNode, parsed: unknown, reloads: (changed: unknown) => boolean): ConfigKey[] {
  const keys = new Map<string, ConfigKey>();
  const walk = (node: SchemaNode, name: string, fallback: unknown, required: boolean): void => {
    const branches = [...(node.oneOf ?? []), ...(node.anyOf ?? [])];
    const given = node.default ?? fallback;
    const parts = node.properties === undefined ? branches.filter((branch) => branch.properties !== undefined) : [node];
    for (const part of parts) {
      for (const [key, child] of Object.entries(part.properties ?? {})) {
        const inherited = isObject(given) ? given[key] : undefined;
        walk(child, name === '' ? key : `${name}.${key}`, inherited, part.required?.includes(key) === true && inherited === undefined);
      }
    }
    if (parts.length > 0 || keys.has(name)) return;
    const value = given ?? (required ? undefined : valueAt(parsed, name));
    keys.set(name, { name, default: required ? 'required' : written(value), reloads: reloads(withChange(parsed, name.split('.'))) });
    if (node.items !== undefined && (node.items.properties ?? node.items.oneOf) !== undefined) walk(node.items, `${name}[]`, undefined, false);
  };
  walk(schema, '', undefined, true);
  return [...keys.values()];
}

function written(value: unknown): string {
  if (value === undefined) return 'none';
  if (typeof value === 'number' && value >= 1_048_576) return bytes(value);
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function valueAt(value: unknown, name: string): unknown {
  return name.split('.').reduce<unknown>((at, key) => (isObject(at) ? at[key] : undefined), value);
}

/** A copy in which the value at a path is another. */
function withChange(value: unknown, [key = '', ...rest]: readonly string[]): unknown {
  const fields = isObject(value) ? value : {};
  return { ...fields, [key]: rest.length === 0 ? 'another value' : withChange(fields[key], rest) };
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
