/**
 * `steeple explain`: what the agent saw of a process, which entries it matches, and of those that came closest the
 * selectors that are missing. The agent looks; this shows.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { command, type Command, exitCodes } from '../command.ts';
import { agentSocketFlag, withAgent } from '../operators.ts';
import { json, outputFlag, outputForm, plain } from '../print.ts';

const service = 'steeple.agent.v1.Admin';

export const explainCommands: readonly Command[] = [
  command({
    name: 'explain',
    summary: 'say why a process gets the identities it gets, or none',
    flags: { ...agentSocketFlag, ...outputFlag, pid: { type: 'number', value: 'N', summary: 'the process' } },
    async run({ flags }, io) {
      const { pid } = flags;
      if (pid === undefined) throw new SpiffeError('invalid', 'cli.explain.pid', '--pid is needed');
      return withAgent(flags['admin-socket'], io, async ({ client, services, signal }) => {
        const found = await client.unary(services[service].Explain, { pid }, { signal });
        if (outputForm(flags.output) === 'json') {
          io.out(json(found));
          return found.matches.length > 0 ? exitCodes.ok : exitCodes.failed;
        }
        const lines: string[] = [];
        for (const attestor of found.attestors) {
          const answer = attestor.reason === '' ? `${attestor.selectors.length} selectors` : attestor.reason;
          lines.push(`attestor ${attestor.name}: ${answer} in ${attestor.ms.toFixed(1)} ms`);
          lines.push(...attestor.selectors.map((selector) => `  ${selector}`));
        }
        if (found.matches.length === 0) lines.push('no entry matches: the process has no identity here');
        for (const match of found.matches) {
          lines.push(`gets ${match.spiffe_id} by entry ${match.entry_id}, strength ${match.strength}: ${match.strength_reason}`);
          lines.push(...match.pending_bundles.map((name) => `  pending: the bundle of ${name} has not come yet`));
        }
        for (const near of found.closest) {
          lines.push(`lacks for ${near.spiffe_id} (entry ${near.entry_id}):`);
          lines.push(...near.missing_selectors.map((selector) => `  ${selector}`));
        }
        io.out(lines.map((line) => `${plain(line)}\n`).join(''));
        return found.matches.length > 0 ? exitCodes.ok : exitCodes.failed;
      });
    },
  }),
];
