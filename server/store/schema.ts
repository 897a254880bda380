/**
 * The tables as Kysely knows them: names and types of columns, nothing else. Instants are epoch milliseconds, flags are
 * 0 or 1, lists are JSON text, so that every column means the same in each database.
 */

export interface MetaTable {
  name: string;
  value: string;
}

/** Numbers handed out inside the transaction that uses them, so that their order is the order of commits. */
export interface CounterTable {
  name: 'revision' | 'entry' | 'agent' | 'credential' | 'audit' | 'relationship';
  value: number;
}

export interface EntryTable {
  row: number;
  id: string;
  /** SHA-256 of what two similar entries have in common. */
  match_hash: string;
  spiffe_id: string;
  parent_id: string;
  selectors: string;
  federates_with: string;
  dns_names: string;
  x509_svid_ttl: number;
  jwt_svid_ttl: number;
  admin: number;
  downstream: number;
  store_svid: number;
  hint: string;
  disable_x509_svid_prefetch: number;
  jwt_svid_include_jti: number;
  forbid_cache: number;
  expires_at: number | null;
  created_at: number;
  revision_number: number;
}

/** Which entries federate with a trust domain, for the day its bundle goes. */
export interface EntryFederationTable {
  entry_row: number;
  trust_domain: string;
}

export interface JoinTokenTable {
  hash: string;
  expires_at: number;
  agent_id: string | null;
}

export interface AgentTable {
  row: number;
  id: string;
  attestation_type: string;
  serial: string;
  expires_at: number;
  pending_serial: string;
  pending_expires_at: number;
  selectors: string;
  can_reattest: number;
  agent_version: string;
  attested_at: number;
  /** The entry its join token wrote, `''` when there is none. */
  alias_entry_id: string;
}

export interface BundleTable {
  trust_domain: string;
  /** Decimal: 64 bits without sign fit no column. */
  sequence: string;
  refresh_hint: number;
  x509_authorities: string;
  jwt_authorities: string;
  wit_authorities: string;
}

export interface RelationshipTable {
  row: number;
  trust_domain: string;
  endpoint_url: string;
  profile: string;
  /** Of `https_spiffe`, else `''`. */
  endpoint_id: string;
  created_at: number;
  /** When a bundle last came from the endpoint as it is now. */
  refreshed_at: number | null;
  /** The publisher's own number of what was fetched or set last, decimal; what an operator changed since counts on from it elsewhere. */
  sequence: string;
}

export interface AuthorityTable {
  id: string;
  kind: string;
  owner: string;
  key_name: string;
  key_type: string;
  state: string;
  public_key: Uint8Array;
  certificate: Uint8Array | null;
  created_at: number;
  published_at: number | null;
  published_revision: number | null;
  activated_at: number | null;
  not_before_at: number;
  expires_at: number;
}

export interface ChangeTable {
  revision: number;
  noun: string;
  ref: string;
  structural: number;
}

export interface CredentialTable {
  row: number;
  id: string;
  kind: string;
  state: string;
  spiffe_id: string;
  entry_id: string;
  agent_id: string;
  authority_id: string;
  decision_id: string;
  reason: string;
  at: number;
  not_before_at: number;
  expires_at: number;
  audience: string;
  digest: string;
  process: string;
}

export interface AuditTable {
  number: number;
  at: number;
  type: string;
  actor: string;
  method: string;
  outcome: string;
  reason: string;
  subject: string;
  detail: string;
}

export interface SpoolTable {
  agent_id: string;
  spool: string;
  recorded_through: number;
  updated_at: number;
}

export interface Schema {
  meta: MetaTable;
  counter: CounterTable;
  entry: EntryTable;
  entry_federation: EntryFederationTable;
  join_token: JoinTokenTable;
  agent: AgentTable;
  bundle: BundleTable;
  relationship: RelationshipTable;
  authority: AuthorityTable;
  change: ChangeTable;
  credential: CredentialTable;
  audit: AuditTable;
  spool: SpoolTable;
}
