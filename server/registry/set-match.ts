/**
 * How a filter compares a set it was given with the set of a candidate [SPIRE contract 12].
 */

export interface SetMatch<Member extends string> {
  /** Never empty. */
  readonly members: ReadonlySet<Member>;
  /** What the candidate must be to the members: the same, a part of them, all of them and maybe more, or overlapping. */
  readonly behavior: 'exact' | 'subset' | 'superset' | 'any';
}

/** A candidate without members is a subset of nothing. */
export function setMatches<Member extends string>(candidate: readonly Member[], match: SetMatch<Member>): boolean {
  const { members, behavior } = match;
  switch (behavior) {
    case 'any':
      return candidate.some((member) => members.has(member));
    case 'subset':
      return candidate.length > 0 && candidate.every((member) => members.has(member));
    case 'superset':
      return containsAll(candidate, members);
    case 'exact':
      return candidate.every((member) => members.has(member)) && containsAll(candidate, members);
  }
}

function containsAll<Member extends string>(candidate: readonly Member[], members: ReadonlySet<Member>): boolean {
  const held = new Set(candidate);
  for (const member of members) if (!held.has(member)) return false;
  return true;
}
