/**
 * The edges every message shares: 64-bit integers that arrive as decimal text, instants that arrive as Unix seconds, and
 * enums whose number nobody has named. Which field is meant, and which values it may have, is left to the caller.
 */
import { SpiffeError } from '../../spiffe/errors.ts';

/** The last instant a Date can hold, in seconds; no certificate or token reaches it. */
const maxInstantSeconds = 8_640_000_000_000;

/**
 * A 64-bit integer as a number that is exact and not negative.
 * @param field name for the message, as in the .proto file
 * @throws invalid `proto.integer.range`
 */
export function integerFromText(text: string, field: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new SpiffeError('invalid', 'proto.integer.range', `${field} is out of range`, { detail: { field } });
  }
  return value;
}

/**
 * Unix seconds as an instant in epoch milliseconds; 0 stays 0.
 * @throws invalid `proto.instant.range`
 */
export function instantFromSeconds(text: string, field: string): number {
  const seconds = Number(text);
  if (!Number.isSafeInteger(seconds) || seconds < 0 || seconds > maxInstantSeconds) {
    throw new SpiffeError('invalid', 'proto.instant.range', `${field} is out of range`, { detail: { field } });
  }
  return seconds * 1000;
}

/**
 * Unix seconds where 0 means that there is no such instant.
 * @throws invalid `proto.instant.range`
 */
export function optionalInstantFromSeconds(text: string, field: string): number | undefined {
  const at = instantFromSeconds(text, field);
  return at === 0 ? undefined : at;
}

/** An instant as whole Unix seconds, rounded down so that nothing lives longer on paper than in fact. */
export function secondsFromInstant(at: number | undefined): number {
  return at === undefined ? 0 : Math.floor(at / 1000);
}

/**
 * The value a table has for an enum's name. A number without a name is decoded as that number and refused here.
 * @param names what each name means; a name that has no meaning of its own, such as an unspecified zero, is left out
 * @throws invalid `proto.enum.unknown`
 */
export function namedValue<Name extends string, Value>(
  names: Readonly<Partial<Record<Name, Value>>>,
  name: Name,
  field: string,
): Value {
  const value = Object.hasOwn(names, name) ? names[name] : undefined;
  if (value === undefined) {
    throw new SpiffeError('invalid', 'proto.enum.unknown', `${field} has an unknown value`, { detail: { field } });
  }
  return value;
}
