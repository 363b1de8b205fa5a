-- How calls are shared and served: helixmesh.type.v1.DeploymentRouting as JSON; null means the defaults. It changes no
-- replica, so it is no part of what generation counts.
ALTER TABLE deployments ADD COLUMN routing jsonb;

DROP TRIGGER changed_spec ON deployments;
CREATE TRIGGER changed_spec AFTER UPDATE ON deployments
  FOR EACH ROW WHEN (
    (OLD.model, OLD.engine, OLD.replicas, OLD.node_labels, OLD.max_per_node, OLD.context_tokens,
     OLD.parallel_sequences, OLD.engine_options, OLD.routing, OLD.generation)
    IS DISTINCT FROM
    (NEW.model, NEW.engine, NEW.replicas, NEW.node_labels, NEW.max_per_node, NEW.context_tokens,
     NEW.parallel_sequences, NEW.engine_options, NEW.routing, NEW.generation))
  EXECUTE FUNCTION helixmesh_notify_changed();

-- An alias points at a model or at another alias. That chains end at a model is checked when an alias is written.
ALTER TABLE aliases ALTER COLUMN model DROP NOT NULL;
ALTER TABLE aliases ADD COLUMN alias text REFERENCES aliases (name) ON DELETE CASCADE;
ALTER TABLE aliases ADD CHECK (num_nonnulls(model, alias) = 1);
CREATE INDEX aliases_by_alias ON aliases (alias);

-- Where each alias leads.
CREATE VIEW alias_models AS
  WITH RECURSIVE resolved (name, model) AS (
    SELECT name, model FROM aliases WHERE model IS NOT NULL
    UNION ALL
    SELECT a.name, r.model FROM aliases a JOIN resolved r ON a.alias = r.name
  )
  SELECT name, model FROM resolved;
