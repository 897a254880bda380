/**
 * The version of this package, from its manifest, which lies one folder up in a checkout and two in a built package.
 */
import { readFileSync } from 'node:fs';

export const version: string = readVersion();

function readVersion(): string {
  for (const place of ['../package.json', '../../package.json']) {
    try {
      const manifest = JSON.parse(readFileSync(new URL(place, import.meta.url), 'utf8')) as { name?: string; version?: string };
      if (manifest.name === 'steeple' && manifest.version !== undefined) return manifest.version;
    } catch {
      // Not here; the other place is tried.
    }
  }
  return '0.0.0';
}
