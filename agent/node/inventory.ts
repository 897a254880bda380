/**
 * What this node is, for the inventory: gathered once, at start. Some of it comes from helper programs, so nothing is ever
 * decided by it and nothing waits for it.
 */
import { osInfo, system, uuid } from 'systeminformation';

export type Inventory = Readonly<Record<string, string>>;

const longestFact = 256;

/** What cannot be had is left out; never rejects. */
export async function gatherInventory(extra: Inventory): Promise<Inventory> {
  const [os, machine, ids] = await Promise.all([settled(osInfo()), settled(system()), settled(uuid())]);
  const facts: Record<string, string | undefined> = {
    platform: os?.platform,
    distribution: os?.distro,
    release: os?.release,
    kernel: os?.kernel,
    architecture: os?.arch,
    hostname: os?.hostname,
    manufacturer: machine?.manufacturer,
    model: machine?.model,
    virtual: machine === undefined ? undefined : String(machine.virtual),
    machine_id: ids?.os,
    hardware_id: ids?.hardware,
    ...extra,
  };
  return Object.freeze(
    Object.fromEntries(
      Object.entries(facts).flatMap(([name, value]) => (value === undefined || value === '' ? [] : [[name, value.slice(0, longestFact)]])),
    ),
  );
}

async function settled<T>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked;
  } catch {
    return undefined;
  }
}
