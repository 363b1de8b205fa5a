-- Forward only. A migration that has left the main branch is never edited: its checksum is recorded where it ran.
--
-- Times are timestamptz, read and written from TypeScript as Unix milliseconds (see ../database.ts). Enum columns hold
-- the numbers of the proto enums. Columns of type bytea named host, load and status hold encoded proto messages.

-- Tenants -------------------------------------------------------------------------------------------------------------

CREATE TABLE organisations (
  id         text PRIMARY KEY,
  name       text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 128),
  created_at timestamptz NOT NULL
);

CREATE TABLE projects (
  id              text PRIMARY KEY,
  organisation_id text NOT NULL REFERENCES organisations (id),
  name            text NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
  created_at      timestamptz NOT NULL,
  UNIQUE (organisation_id, name)
);

CREATE TABLE keys (
  -- The public part of the key.
  id            text PRIMARY KEY,
  -- Of the secret part; the secret itself is stored nowhere.
  secret_sha256 bytea NOT NULL CHECK (length(secret_sha256) = 32),
  -- helixmesh.type.v1.KeyRole.
  role          smallint NOT NULL CHECK (role > 0),
  project_id    text NOT NULL REFERENCES projects (id),
  name          text NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
  created_at    timestamptz NOT NULL,
  -- Null: never.
  expires_at    timestamptz,
  -- Null: it works.
  revoked_at    timestamptz
);
CREATE INDEX keys_by_creation ON keys (created_at, id);

-- Registry ------------------------------------------------------------------------------------------------------------

CREATE TABLE models (
  name       text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 128),
  created_at timestamptz NOT NULL
);

CREATE TABLE model_versions (
  model      text NOT NULL REFERENCES models (name) ON DELETE CASCADE,
  version    text NOT NULL CHECK (length(version) BETWEEN 1 AND 128),
  source     text NOT NULL,
  -- Hex; empty means unchecked.
  sha256     text NOT NULL DEFAULT '',
  created_at timestamptz NOT NULL,
  -- Grows with every version of any model: the current version of a model is the one with the largest.
  ordinal    bigint GENERATED ALWAYS AS IDENTITY,
  PRIMARY KEY (model, version)
);
CREATE INDEX model_versions_by_ordinal ON model_versions (model, ordinal DESC);

CREATE TABLE aliases (
  name       text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 128),
  model      text NOT NULL REFERENCES models (name) ON DELETE CASCADE,
  created_at timestamptz NOT NULL
);
CREATE INDEX aliases_by_model ON aliases (model);

-- Nano-dollars per token, at most one dollar per token, so that the cost of any call fits a bigint. No reference to
-- models: usage of a deleted model keeps its price.
CREATE TABLE prices (
  model                      text NOT NULL,
  effective_at               timestamptz NOT NULL,
  prompt_nanos_per_token     bigint NOT NULL CHECK (prompt_nanos_per_token BETWEEN 0 AND 1000000000),
  cached_nanos_per_token     bigint NOT NULL CHECK (cached_nanos_per_token BETWEEN 0 AND 1000000000),
  completion_nanos_per_token bigint NOT NULL CHECK (completion_nanos_per_token BETWEEN 0 AND 1000000000),
  created_at                 timestamptz NOT NULL,
  PRIMARY KEY (model, effective_at)
);

-- What runs where -----------------------------------------------------------------------------------------------------

CREATE TABLE deployments (
  name               text PRIMARY KEY CHECK (name ~ '^[a-z0-9-]{1,63}$'),
  model              text NOT NULL REFERENCES models (name),
  -- helixmesh.type.v1.EngineKind.
  engine             smallint NOT NULL CHECK (engine > 0),
  replicas           integer NOT NULL CHECK (replicas BETWEEN 0 AND 1000),
  -- Object of strings.
  node_labels        jsonb NOT NULL DEFAULT '{}',
  max_per_node       integer NOT NULL DEFAULT 1 CHECK (max_per_node >= 1),
  -- 0: the model's.
  context_tokens     integer NOT NULL DEFAULT 0 CHECK (context_tokens >= 0),
  -- 0: the agent's default.
  parallel_sequences integer NOT NULL DEFAULT 0 CHECK (parallel_sequences >= 0),
  -- Object of strings.
  engine_options     jsonb NOT NULL DEFAULT '{}',
  -- Grows when the spec changes in anything but replicas: replicas of an older generation are replaced.
  generation         integer NOT NULL DEFAULT 1,
  -- Why fewer replicas are placed than wanted, as the reconcile loop last saw it; empty when none is missing.
  unplaced_reason    text NOT NULL DEFAULT '',
  created_at         timestamptz NOT NULL
);
CREATE INDEX deployments_by_model ON deployments (model);

CREATE TABLE nodes (
  id                text PRIMARY KEY,
  name              text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9-]{1,63}$'),
  link_address      text NOT NULL,
  -- Of the node token that Register returned last.
  token_sha256      bytea NOT NULL CHECK (length(token_sha256) = 32),
  agent_version     text NOT NULL DEFAULT '',
  -- helixmesh.node.v1.HostInfo.
  host              bytea NOT NULL DEFAULT '',
  -- helixmesh.node.v1.HostLoad.
  load              bytea NOT NULL DEFAULT '',
  -- Object of strings.
  labels            jsonb NOT NULL DEFAULT '{}',
  -- helixmesh.type.v1.EngineKind, each.
  engines           smallint[] NOT NULL DEFAULT '{}',
  lease_expires_at  timestamptz NOT NULL,
  -- The lease is alive, as written by the last heartbeat or by the reconcile loop that saw it expire. Kept beside
  -- lease_expires_at because only a written change is notified.
  online            boolean NOT NULL DEFAULT true,
  cordoned          boolean NOT NULL DEFAULT false,
  -- The agent said that it takes no new calls.
  draining          boolean NOT NULL DEFAULT false,
  registered_at     timestamptz NOT NULL,
  last_heartbeat_at timestamptz NOT NULL,
  running_calls     bigint NOT NULL DEFAULT 0
);

CREATE TABLE replicas (
  id         text PRIMARY KEY,
  -- No reference: replicas drain after their deployment is gone.
  deployment text NOT NULL,
  node_id    text NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
  -- What to run, frozen when placed: {model, source, sha256, engine, contextTokens, parallelSequences, engineOptions}.
  spec       jsonb NOT NULL,
  -- The deployment's generation that it was placed for.
  generation integer NOT NULL,
  -- helixmesh.type.v1.ReplicaState as last reported; 1 (absent) until then.
  state      smallint NOT NULL DEFAULT 1,
  -- helixmesh.node.v1.ReplicaStatus as last reported; empty until then.
  status     bytea NOT NULL DEFAULT '',
  -- To be drained and removed; no longer in the node's desired state.
  draining   boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL
);
CREATE INDEX replicas_by_deployment ON replicas (deployment);
CREATE INDEX replicas_by_node ON replicas (node_id);

-- Ledger --------------------------------------------------------------------------------------------------------------

-- One row a call: the router's view, or an agent's while the router's has not come.
CREATE TABLE usage_records (
  call_id           text PRIMARY KEY,
  -- Null until the router reported; then never changed again.
  router_id         text,
  -- Empty until the router reported.
  key_id            text NOT NULL,
  project_id        text NOT NULL,
  model             text NOT NULL,
  deployment        text NOT NULL,
  node_id           text NOT NULL,
  door              text NOT NULL,
  -- helixmesh.type.v1.Outcome.
  outcome           smallint NOT NULL,
  -- helixmesh.error.v1.Reason.
  reason            smallint NOT NULL,
  prompt_tokens     bigint NOT NULL CHECK (prompt_tokens >= 0),
  cached_tokens     bigint NOT NULL CHECK (cached_tokens BETWEEN 0 AND prompt_tokens),
  completion_tokens bigint NOT NULL CHECK (completion_tokens >= 0),
  started_at        timestamptz NOT NULL,
  duration_ms       bigint NOT NULL,
  ttft_ms           bigint NOT NULL,
  labels            jsonb NOT NULL,
  attempts          bigint NOT NULL,
  -- Null when the model had no price at started_at: unknown, not zero.
  cost_nanos        bigint CHECK (cost_nanos >= 0),
  priced            boolean GENERATED ALWAYS AS (cost_nanos IS NOT NULL) STORED,
  recorded_at       timestamptz NOT NULL
);
CREATE INDEX usage_records_by_time ON usage_records (started_at DESC, call_id DESC);
CREATE INDEX usage_records_by_key ON usage_records (key_id, started_at DESC, call_id DESC);
CREATE INDEX usage_records_by_project ON usage_records (project_id, started_at DESC, call_id DESC);

-- Every agent's view of an attempt. A call that moved has one row for each attempt that an agent settled.
CREATE TABLE usage_agent_reports (
  call_id           text NOT NULL,
  node_id           text NOT NULL,
  started_at        timestamptz NOT NULL,
  model             text NOT NULL,
  deployment        text NOT NULL,
  outcome           smallint NOT NULL,
  reason            smallint NOT NULL,
  prompt_tokens     bigint NOT NULL CHECK (prompt_tokens >= 0),
  cached_tokens     bigint NOT NULL CHECK (cached_tokens BETWEEN 0 AND prompt_tokens),
  completion_tokens bigint NOT NULL CHECK (completion_tokens >= 0),
  duration_ms       bigint NOT NULL,
  ttft_ms           bigint NOT NULL,
  recorded_at       timestamptz NOT NULL,
  PRIMARY KEY (call_id, node_id, started_at)
);

-- Mesh-wide values that every control plane must agree on, such as the link secret.
CREATE TABLE mesh_settings (
  key   text PRIMARY KEY,
  value text NOT NULL
);

-- Change notification -------------------------------------------------------------------------------------------------

-- Labels states of the registry in the order in which they were written. Read it as
-- SELECT last_value FROM change_version; a transaction that rolls back leaves a gap, which means nothing.
CREATE SEQUENCE change_version;

-- Tells every control plane that something changed: channel helixmesh_changed, payload the table's name. PostgreSQL
-- delivers at commit, and once for equal payloads of one transaction, so a listener reads the change when it hears.
CREATE FUNCTION helixmesh_notify_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM nextval('change_version');
  PERFORM pg_notify('helixmesh_changed', TG_TABLE_NAME);
  RETURN NULL;
END
$$;

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON projects
  FOR EACH STATEMENT EXECUTE FUNCTION helixmesh_notify_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON keys
  FOR EACH STATEMENT EXECUTE FUNCTION helixmesh_notify_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON models
  FOR EACH STATEMENT EXECUTE FUNCTION helixmesh_notify_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON model_versions
  FOR EACH STATEMENT EXECUTE FUNCTION helixmesh_notify_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON aliases
  FOR EACH STATEMENT EXECUTE FUNCTION helixmesh_notify_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON prices
  FOR EACH STATEMENT EXECUTE FUNCTION helixmesh_notify_changed();

-- For each row, and only for what a listener acts on: heartbeats and load reports come every second from every node.
CREATE TRIGGER changed AFTER INSERT OR DELETE ON deployments
  FOR EACH ROW EXECUTE FUNCTION helixmesh_notify_changed();
CREATE TRIGGER changed_spec AFTER UPDATE ON deployments
  FOR EACH ROW WHEN (
    (OLD.model, OLD.engine, OLD.replicas, OLD.node_labels, OLD.max_per_node, OLD.context_tokens,
     OLD.parallel_sequences, OLD.engine_options, OLD.generation)
    IS DISTINCT FROM
    (NEW.model, NEW.engine, NEW.replicas, NEW.node_labels, NEW.max_per_node, NEW.context_tokens,
     NEW.parallel_sequences, NEW.engine_options, NEW.generation))
  EXECUTE FUNCTION helixmesh_notify_changed();
CREATE TRIGGER changed AFTER INSERT OR DELETE ON nodes
  FOR EACH ROW EXECUTE FUNCTION helixmesh_notify_changed();
CREATE TRIGGER changed_registration AFTER UPDATE ON nodes
  FOR EACH ROW WHEN (
    (OLD.name, OLD.link_address, OLD.token_sha256, OLD.labels, OLD.engines, OLD.online, OLD.cordoned, OLD.draining)
    IS DISTINCT FROM
    (NEW.name, NEW.link_address, NEW.token_sha256, NEW.labels, NEW.engines, NEW.online, NEW.cordoned, NEW.draining))
  EXECUTE FUNCTION helixmesh_notify_changed();
CREATE TRIGGER changed AFTER INSERT OR DELETE ON replicas
  FOR EACH ROW EXECUTE FUNCTION helixmesh_notify_changed();
CREATE TRIGGER changed_state AFTER UPDATE ON replicas
  FOR EACH ROW WHEN (
    (OLD.deployment, OLD.node_id, OLD.spec, OLD.generation, OLD.state, OLD.draining)
    IS DISTINCT FROM
    (NEW.deployment, NEW.node_id, NEW.spec, NEW.generation, NEW.state, NEW.draining))
  EXECUTE FUNCTION helixmesh_notify_changed();
