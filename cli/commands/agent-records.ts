/**
 * `steeple agent list|show|count|evict|ban|purge`, and `steeple token generate`: the agents a server knows and how nodes
 * may join. Running an agent is `agent-run.ts`.
 */
import { agentFromMessage, type AgentView } from '../../proto/convert/agent.ts';
import { idToMessage } from '../../proto/convert/id.ts';
import { selectorMatchToMessage } from '../../proto/convert/selector.ts';
import type { Agent__Output } from '../../proto/gen/spire/api/types/Agent.ts';
import { systemClock } from '../../runtime/clock.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId } from '../../spiffe/id.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { command, type Command, exitCodes } from '../command.ts';
import type { FlagSpecs } from '../flags.ts';
import { type Line, pages, serverSocketFlag, withServer } from '../operators.ts';
import { distance, instant, json, outputFlag, outputForm, plain, record, table } from '../print.ts';

const service = 'spire.api.server.agent.v1.Agent';

const filterFlags = {
  'attestation-type': { type: 'text', value: 'TYPE', summary: 'agents attested this way' },
  selector: { type: 'list', value: 'TYPE:VALUE', summary: 'agents with these node selectors' },
  'match-selectors-on': { type: 'text', summary: 'how selectors compare', choices: ['exact', 'subset', 'superset', 'any'] },
  banned: { type: 'switch', summary: 'banned agents, or with =false the others' },
  'can-reattest': { type: 'switch', summary: 'agents that can attest anew, or with =false the others' },
  'expires-before': { type: 'text', value: 'WHEN', summary: 'agents whose SVID expires before this RFC 3339 instant' },
} as const satisfies FlagSpecs;

interface FilterValues {
  readonly 'attestation-type': string | undefined;
  readonly selector: readonly string[];
  readonly 'match-selectors-on': string | undefined;
  readonly banned: boolean | undefined;
  readonly 'can-reattest': boolean | undefined;
  readonly 'expires-before': string | undefined;
}

export const agentRecordCommands: readonly Command[] = [
  command({
    name: 'agent list',
    summary: 'list the agents that the server knows',
    flags: { ...serverSocketFlag, ...outputFlag, ...filterFlags },
    async run({ flags }, io) {
      return withServer(flags.socket, io, [service], async (line) => {
        const agents: AgentView[] = [];
        for await (const page of listed(line, filterOf(flags))) agents.push(...page.map(agentFromMessage));
        if (outputForm(flags.output) === 'json') io.out(json(agents.map(view)));
        else {
          const now = systemClock.now();
          io.out(
            table(
              ['AGENT ID', 'ATTESTED BY', 'STATE', 'EXPIRES', 'VERSION'],
              agents.map((agent) => [
                agent.id,
                agent.attestationType,
                agent.serial === '' ? 'banned' : agent.expiresAt <= now ? 'expired' : 'active',
                distance(agent.expiresAt, now),
                agent.agentVersion,
              ]),
            ),
          );
          io.err(`${agents.length} agents\n`);
        }
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'agent show',
    summary: 'show one agent',
    flags: { ...serverSocketFlag, ...outputFlag, 'spiffe-id': { type: 'text', value: 'ID', summary: 'the agent ID' } },
    positionals: ['ID'],
    async run({ flags, positionals }, io) {
      const id = wantedId(flags['spiffe-id'] ?? positionals[0]);
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const agent = agentFromMessage(await client.unary(services[service].GetAgent, { id }, { signal }));
        if (outputForm(flags.output) === 'json') io.out(json(view(agent)));
        else {
          io.out(
            record([
              ['Agent ID', agent.id],
              ['Attested by', agent.attestationType],
              ['State', agent.serial === '' ? 'banned' : 'active'],
              ['Serial', agent.serial],
              ['Expires', instant(agent.expiresAt)],
              ['Can re-attest', String(agent.canReattest)],
              ['Version', agent.agentVersion],
              ['Selectors', agent.selectors],
            ]),
          );
        }
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'agent count',
    summary: 'count agents, all or those that match',
    flags: { ...serverSocketFlag, ...outputFlag, ...filterFlags },
    async run({ flags }, io) {
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const { count } = await client.unary(services[service].CountAgents, { filter: filterOf(flags) }, { signal });
        io.out(outputForm(flags.output) === 'json' ? json({ count }) : `${count}\n`);
        return exitCodes.ok;
      });
    },
  }),
  act('agent evict', 'forget an agent; its node may attest anew', 'evicted', 'DeleteAgent'),
  act('agent ban', 'refuse an agent from now on; its node may not come back', 'banned', 'BanAgent'),
  command({
    name: 'agent purge',
    summary: 'evict agents whose SVID expired long ago',
    flags: {
      ...serverSocketFlag,
      ...outputFlag,
      'expired-for': { type: 'duration', value: 'TIME', summary: 'how long ago; 30d unless given' },
      'dry-run': { type: 'switch', summary: 'only say which' },
    },
    async run({ flags }, io) {
      const before = systemClock.now() - (flags['expired-for'] ?? 30 * 86_400) * 1000;
      return withServer(flags.socket, io, [service], async (line) => {
        const expired: AgentView[] = [];
        for await (const page of listed(line, { by_can_reattest: { value: true }, by_banned: { value: false } })) {
          expired.push(...page.map(agentFromMessage).filter((agent) => agent.expiresAt < before));
        }
        if (flags['dry-run'] !== true) {
          for (const agent of expired) {
            await line.client.unary(line.services[service].DeleteAgent, { id: idToMessage(agent.id) }, { signal: line.signal });
          }
        }
        if (outputForm(flags.output) === 'json') io.out(json(expired.map(view)));
        else io.out(expired.map((agent) => `${plain(agent.id)}\n`).join(''));
        io.err(`${expired.length} agents ${flags['dry-run'] === true ? 'would be evicted' : 'evicted'}\n`);
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'token generate',
    summary: 'make a join token, with which one node may join once',
    flags: {
      ...serverSocketFlag,
      ...outputFlag,
      ttl: { type: 'duration', value: 'TIME', summary: 'how long it can be used; 10m unless given' },
      'spiffe-id': { type: 'text', value: 'ID', summary: 'a name of your own for the node, to hang entries from' },
      token: { type: 'text', value: 'TEXT', summary: 'a token of your own, at least 16 characters' },
    },
    async run({ flags }, io) {
      const alias = flags['spiffe-id'];
      const request = {
        ttl: flags.ttl ?? 600,
        token: flags.token ?? '',
        ...(alias !== undefined && { agent_id: idToMessage(parseSpiffeId(alias)) }),
      };
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const token = await client.unary(services[service].CreateJoinToken, request, { signal });
        const expiresAt = Number(token.expires_at) * 1000;
        if (outputForm(flags.output) === 'json') io.out(json({ token: token.value, expiresAt: instant(expiresAt) }));
        // In SPIRE's words, which scripts look for.
        else io.out(`Token: ${token.value}\n`);
        return exitCodes.ok;
      });
    },
  }),
];

function act(name: string, summary: string, done: string, method: 'DeleteAgent' | 'BanAgent'): Command {
  return command({
    name,
    summary,
    flags: { ...serverSocketFlag, ...outputFlag, 'spiffe-id': { type: 'text', value: 'ID', summary: 'the agent ID' } },
    positionals: ['ID'],
    async run({ flags, positionals }, io) {
      const id = wantedId(flags['spiffe-id'] ?? positionals[0]);
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        await client.unary(services[service][method], { id }, { signal });
        io.out(outputForm(flags.output) === 'json' ? json({ [done]: true }) : `${done}\n`);
        return exitCodes.ok;
      });
    },
  });
}

function wantedId(text: string | undefined): ReturnType<typeof idToMessage> {
  if (text === undefined) throw new SpiffeError('invalid', 'cli.agent.id', 'which agent? its SPIFFE ID is needed');
  return idToMessage(parseSpiffeId(text));
}

function filterOf(flags: FilterValues): object {
  return {
    ...(flags['attestation-type'] !== undefined && { by_attestation_type: flags['attestation-type'] }),
    ...(flags.selector.length > 0 && {
      by_selector_match: selectorMatchToMessage({
        members: new Set(flags.selector.map(parseSelector)),
        behavior: (flags['match-selectors-on'] ?? 'superset') as 'exact' | 'subset' | 'superset' | 'any',
      }),
    }),
    ...(flags.banned !== undefined && { by_banned: { value: flags.banned } }),
    ...(flags['can-reattest'] !== undefined && { by_can_reattest: { value: flags['can-reattest'] } }),
    ...(flags['expires-before'] !== undefined && { by_expires_before: goText(flags['expires-before']) }),
  };
}

/** The layout in which the contract takes instants: `2006-01-02 15:04:05 -0700 -07`. */
function goText(text: string): string {
  const at = Date.parse(text);
  if (Number.isNaN(at)) throw new SpiffeError('invalid', 'cli.agent.expires-before', '--expires-before wants 2030-01-31T12:00:00Z');
  return `${new Date(at).toISOString().slice(0, 19).replace('T', ' ')} +0000 +00`;
}

function listed({ client, services, signal }: Line<typeof service>, filter: object): AsyncGenerator<readonly Agent__Output[]> {
  return pages(async (token) => {
    const request = { filter, page_size: 1000, page_token: token };
    const page = await client.unary(services[service].ListAgents, request, { signal });
    return { items: page.agents, next: page.next_page_token };
  });
}

function view(agent: AgentView): object {
  return { ...agent, expiresAt: instant(agent.expiresAt), banned: agent.serial === '' };
}

