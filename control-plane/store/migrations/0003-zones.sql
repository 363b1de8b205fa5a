-- The failure zone that a node is in, as its agent says; empty is unknown. Routers of the same zone prefer it.
ALTER TABLE nodes ADD COLUMN zone text NOT NULL DEFAULT '' CHECK (length(zone) <= 63);

DROP TRIGGER changed_registration ON nodes;
CREATE TRIGGER changed_registration AFTER UPDATE ON nodes
  FOR EACH ROW WHEN (
    (OLD.name, OLD.link_address, OLD.token_sha256, OLD.labels, OLD.engines, OLD.online, OLD.cordoned, OLD.draining,
     OLD.zone)
    IS DISTINCT FROM
    (NEW.name, NEW.link_address, NEW.token_sha256, NEW.labels, NEW.engines, NEW.online, NEW.cordoned, NEW.draining,
     NEW.zone))
  EXECUTE FUNCTION helixmesh_notify_changed();
