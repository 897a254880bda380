/**
 * Load on a server whose certificate rotates: many connections at once, each made anew, until enough serial numbers were
 * seen by all. How one connection is made is the test's.
 */

export interface Load {
  readonly lanes: number;
  /** Different serial numbers that every lane has to see. */
  readonly serials: number;
  readonly withinMs: number;
  /** Makes one connection, uses it and yields the serial number of the server's certificate. */
  readonly once: (lane: number) => Promise<string>;
}

export interface LoadResult {
  readonly connections: number;
  readonly failures: readonly unknown[];
  /** In the order in which they were first seen. */
  readonly serials: readonly string[];
  /** The fewest that one lane saw. */
  readonly least: number;
}

/** Never rejects; a failed connection ends the load. */
export async function underLoad({ lanes, serials: wanted, withinMs, once }: Load): Promise<LoadResult> {
  const seen = Array.from({ length: lanes }, () => new Set<string>());
  const all = new Set<string>();
  const failures: unknown[] = [];
  const endAt = performance.now() + withinMs;
  let connections = 0;
  const least = (): number => Math.min(...seen.map((set) => set.size));
  const enough = (): boolean => failures.length > 0 || performance.now() > endAt || least() >= wanted;
  await Promise.all(
    seen.map(async (own, lane) => {
      while (!enough()) {
        try {
          const serial = await once(lane);
          connections += 1;
          own.add(serial);
          all.add(serial);
        } catch (error) {
          failures.push(error);
        }
      }
    }),
  );
  return { connections, failures, serials: [...all], least: least() };
}
