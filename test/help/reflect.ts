/**
 * The four functions of the old metadata proposal that `@peculiar/x509` wants to find on `Reflect` when it is loaded. Import
 * it before that package; no other code may rely on it.
 */
type Key = string | symbol;

const metadata = new WeakMap<object, Map<unknown, unknown>>();

function define(key: unknown, value: unknown, target: object, property?: Key): void {
  if (property !== undefined) return;
  const own = metadata.get(target) ?? new Map<unknown, unknown>();
  metadata.set(target, own.set(key, value));
}

function ownOf(key: unknown, target: object, property?: Key): unknown {
  return property === undefined ? metadata.get(target)?.get(key) : undefined;
}

function get(key: unknown, target: object, property?: Key): unknown {
  for (let at: object | null = target; at !== null; at = Object.getPrototypeOf(at) as object | null) {
    const value = ownOf(key, at, property);
    if (value !== undefined) return value;
  }
  return undefined;
}

Object.assign(Reflect, {
  defineMetadata: define,
  getMetadata: get,
  getOwnMetadata: ownOf,
  hasOwnMetadata: (key: unknown, target: object, property?: Key): boolean => ownOf(key, target, property) !== undefined,
  metadata:
    (key: unknown, value: unknown) =>
    (target: object, property?: Key): void =>
      define(key, value, target, property),
});
