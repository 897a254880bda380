/**
 * Where systemd has a process, as the kernel's cgroup paths tell it: the slices from the root down, and the unit in the
 * last of them. Whether systemd knows of such a unit is left to who asks systemd.
 */
import { SpiffeError } from '../../../../spiffe/errors.ts';
import type { CgroupLine } from '../../cgroup.ts';

export interface Place {
  /** A slice when the process is in no unit below one. */
  readonly unit: string;
  /** Outermost first; none for what lies at the root. */
  readonly slices: readonly string[];
}

const rootSlice = '-.slice';
const slice = /^[0-9A-Za-z:_.\\-]+\.slice$/;
const types = 'service|scope|socket|mount|swap|automount|timer|path|target|device';
const unit = new RegExp(String.raw`^[0-9A-Za-z:_.\\-]+(?:@[0-9A-Za-z:_.\\@-]+)?\.(?:${types})$`);
const longestName = 255;

/**
 * Everything below the first unit is the unit's own: a user's service manager names groups as it likes, `nginx.service`
 * too, and so may every service that was given its subtree.
 */
export function placeAt(path: string): Place {
  const parts = path.split('/').slice(1).map(unescaped);
  const end = parts.findIndex((part) => part.length > longestName || !slice.test(part));
  const slices = end < 0 ? parts : parts.slice(0, end);
  const next = end < 0 ? '' : (parts[end] ?? '');
  return { unit: next.length <= longestName && unit.test(next) ? next : (slices.at(-1) ?? rootSlice), slices };
}

/** What would be a file of the kernel's, or begins with an underscore, has one in front. */
function unescaped(part: string): string {
  return part.startsWith('_') ? part.slice(1) : part;
}

/**
 * systemd's hierarchy is the one of v2 or the named one of v1, and with both they say the same; one that it does not use
 * has everybody at its root.
 * @throws denied `systemd.cgroup.ambiguous`
 */
export function placeOf(lines: readonly CgroupLine[]): Place {
  const own = lines.filter(({ hierarchy, controllers }) => hierarchy === 0 || controllers.split(',').includes('name=systemd'));
  const used = own.filter(({ path }) => path !== '/').map(({ path }) => placeAt(path));
  const [place = placeAt('/'), ...others] = used;
  if (others.some((other) => other.unit !== place.unit || other.slices.join('/') !== place.slices.join('/'))) {
    throw new SpiffeError('denied', 'systemd.cgroup.ambiguous', 'the process is in different units by different hierarchies');
  }
  return place;
}
