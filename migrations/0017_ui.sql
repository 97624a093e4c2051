-- What the pages of the web interface ask: when each project was last proved, and what was taken day by day.

-- Writers wait from here on, so that none of them meets this migration half way.
LOCK TABLE control_plane.backups, control_plane.backup_copies IN SHARE ROW EXCLUSIVE MODE;

CREATE INDEX IF NOT EXISTS idx_backups_verified ON control_plane.backups (project_id, verified_at DESC) WHERE verified_at IS NOT NULL;
-- Read alone, without the rows.
CREATE INDEX IF NOT EXISTS idx_backups_days ON control_plane.backups (created_at)
    INCLUDE (project_id, type, size, started_at, finished_at) WHERE status = 'completed';
-- A project's own days.
CREATE INDEX IF NOT EXISTS idx_backups_project_days ON control_plane.backups (project_id, created_at)
    INCLUDE (type, size, started_at, finished_at) WHERE status = 'completed';

-- Whether Holdfast itself has ever taken a backup of a project's database.
CREATE INDEX IF NOT EXISTS idx_backups_own ON control_plane.backups (project_id)
    WHERE type = 'database' AND manifest IS NOT NULL AND format IS NOT NULL;

-- What every storage keeps: one row for each project, storage and type, kept by the triggers below in the transaction of every change. A copy
-- remembers what it was counted as, since its backup's row may be gone when the copy goes.
ALTER TABLE control_plane.backup_copies
    ADD COLUMN IF NOT EXISTS counted_project text,
    ADD COLUMN IF NOT EXISTS counted_type text,
    ADD COLUMN IF NOT EXISTS counted_bytes bigint;
CREATE TABLE IF NOT EXISTS control_plane.copy_sums (
    project_id text NOT NULL,
    storage text NOT NULL,
    type text NOT NULL,
    copies bigint NOT NULL,
    bytes numeric NOT NULL,
    PRIMARY KEY (project_id, storage, type)
);

-- What is there is counted at once, before the triggers are.
UPDATE control_plane.backup_copies c
SET counted_project = b.project_id, counted_type = b.type, counted_bytes = coalesce(b.size, 0)
FROM control_plane.backups b WHERE b.id = c.backup_id AND c.status = 'good' AND c.counted_project IS NULL;
DELETE FROM control_plane.copy_sums;
INSERT INTO control_plane.copy_sums (project_id, storage, type, copies, bytes)
SELECT counted_project, storage, counted_type, count(*), sum(counted_bytes) FROM control_plane.backup_copies
WHERE counted_project IS NOT NULL GROUP BY 1, 2, 3;

-- A copy counts while it is good: with its backup's size of then.
CREATE OR REPLACE FUNCTION control_plane.holdfast_count_copy() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF NEW.status = 'good' THEN
        SELECT b.project_id, b.type, coalesce(b.size, 0) INTO NEW.counted_project, NEW.counted_type, NEW.counted_bytes
        FROM control_plane.backups b WHERE b.id = NEW.backup_id;
    ELSE
        NEW.counted_project := NULL;
        NEW.counted_type := NULL;
        NEW.counted_bytes := NULL;
    END IF;
    RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION control_plane.holdfast_count_copy() FROM PUBLIC;

-- Sums of copies and of backups (0007) are changed under one lock of their project, until the transaction ends: a transaction that has changed
-- the one cannot wait for another that has changed the other. Many projects share a lock, so that a change of all of them has no more locks
-- than the server keeps room for; the locks are taken in their order.
CREATE OR REPLACE FUNCTION control_plane.holdfast_sum_copies() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM control_plane.copy_sums;
    ELSIF TG_OP = 'INSERT' THEN
        PERFORM pg_advisory_xact_lock(1212568405, l.key) FROM (
            SELECT DISTINCT hashtext(counted_project) & 1023 AS key FROM added WHERE counted_project IS NOT NULL ORDER BY 1) l;
        INSERT INTO control_plane.copy_sums AS s (project_id, storage, type, copies, bytes)
        SELECT counted_project, storage, counted_type, count(*), sum(counted_bytes) FROM added WHERE counted_project IS NOT NULL
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (project_id, storage, type) DO UPDATE SET copies = s.copies + excluded.copies, bytes = s.bytes + excluded.bytes;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM pg_advisory_xact_lock(1212568405, l.key) FROM (
            SELECT DISTINCT hashtext(counted_project) & 1023 AS key FROM removed WHERE counted_project IS NOT NULL ORDER BY 1) l;
        INSERT INTO control_plane.copy_sums AS s (project_id, storage, type, copies, bytes)
        SELECT counted_project, storage, counted_type, -count(*), -sum(counted_bytes) FROM removed WHERE counted_project IS NOT NULL
        GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (project_id, storage, type) DO UPDATE SET copies = s.copies + excluded.copies, bytes = s.bytes + excluded.bytes;
    ELSE
        PERFORM pg_advisory_xact_lock(1212568405, l.key) FROM (
        SELECT DISTINCT hashtext(counted_project) & 1023 AS key
        FROM (SELECT counted_project, storage, counted_type, 1 AS change, counted_bytes FROM added WHERE counted_project IS NOT NULL
              UNION ALL
              SELECT counted_project, storage, counted_type, -1, counted_bytes FROM removed WHERE counted_project IS NOT NULL) changes
        GROUP BY counted_project, storage, counted_type HAVING sum(change) <> 0 OR sum(change * counted_bytes) <> 0 ORDER BY 1) l;
        INSERT INTO control_plane.copy_sums AS s (project_id, storage, type, copies, bytes)
        SELECT counted_project, storage, counted_type, sum(change), sum(change * counted_bytes)
        FROM (SELECT counted_project, storage, counted_type, 1 AS change, counted_bytes FROM added WHERE counted_project IS NOT NULL
              UNION ALL
              SELECT counted_project, storage, counted_type, -1, counted_bytes FROM removed WHERE counted_project IS NOT NULL) changes
        GROUP BY 1, 2, 3 HAVING sum(change) <> 0 OR sum(change * counted_bytes) <> 0 ORDER BY 1, 2, 3
        ON CONFLICT (project_id, storage, type) DO UPDATE SET copies = s.copies + excluded.copies, bytes = s.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION control_plane.holdfast_sum_copies() FROM PUBLIC;

CREATE OR REPLACE FUNCTION control_plane.holdfast_sum_backups() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM control_plane.backup_sums;
    ELSIF TG_OP = 'INSERT' THEN
        PERFORM pg_advisory_xact_lock(1212568405, l.key) FROM (
            SELECT DISTINCT hashtext(project_id) & 1023 AS key FROM added ORDER BY 1) l;
        INSERT INTO control_plane.backup_sums AS s (project_id, type, status, backups, bytes)
        SELECT project_id, type, status, count(*), sum(coalesce(size, 0)) FROM added GROUP BY project_id, type, status
        ORDER BY project_id, type, status
        ON CONFLICT (project_id, type, status) DO UPDATE SET backups = s.backups + excluded.backups, bytes = s.bytes + excluded.bytes;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM pg_advisory_xact_lock(1212568405, l.key) FROM (
            SELECT DISTINCT hashtext(project_id) & 1023 AS key FROM removed ORDER BY 1) l;
        INSERT INTO control_plane.backup_sums AS s (project_id, type, status, backups, bytes)
        SELECT project_id, type, status, -count(*), -sum(coalesce(size, 0)) FROM removed GROUP BY project_id, type, status
        ORDER BY project_id, type, status
        ON CONFLICT (project_id, type, status) DO UPDATE SET backups = s.backups + excluded.backups, bytes = s.bytes + excluded.bytes;
    ELSE
        PERFORM pg_advisory_xact_lock(1212568405, l.key) FROM (
        SELECT DISTINCT hashtext(project_id) & 1023 AS key
        FROM (SELECT project_id, type, status, 1 AS change, coalesce(size, 0) AS bytes FROM added
              UNION ALL SELECT project_id, type, status, -1, coalesce(size, 0) FROM removed) changes
        GROUP BY project_id, type, status HAVING sum(change) <> 0 OR sum(change * bytes) <> 0 ORDER BY 1) l;
        INSERT INTO control_plane.backup_sums AS s (project_id, type, status, backups, bytes)
        SELECT project_id, type, status, sum(change), sum(change * bytes)
        FROM (SELECT project_id, type, status, 1 AS change, coalesce(size, 0) AS bytes FROM added
              UNION ALL SELECT project_id, type, status, -1, coalesce(size, 0) FROM removed) changes
        GROUP BY project_id, type, status HAVING sum(change) <> 0 OR sum(change * bytes) <> 0
        ORDER BY project_id, type, status
        ON CONFLICT (project_id, type, status) DO UPDATE SET backups = s.backups + excluded.backups, bytes = s.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION control_plane.holdfast_sum_backups() FROM PUBLIC;

-- A backup's size is written when its copies are there already: then they are counted anew.
CREATE OR REPLACE FUNCTION control_plane.holdfast_recount_copies() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    UPDATE control_plane.backup_copies SET status = status WHERE backup_id = NEW.id AND status = 'good';
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION control_plane.holdfast_recount_copies() FROM PUBLIC;

CREATE OR REPLACE TRIGGER holdfast_count_copy BEFORE INSERT OR UPDATE ON control_plane.backup_copies
    FOR EACH ROW EXECUTE FUNCTION control_plane.holdfast_count_copy();
CREATE OR REPLACE TRIGGER holdfast_copies_added AFTER INSERT ON control_plane.backup_copies
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_sum_copies();
CREATE OR REPLACE TRIGGER holdfast_copies_changed AFTER UPDATE ON control_plane.backup_copies
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_sum_copies();
CREATE OR REPLACE TRIGGER holdfast_copies_removed AFTER DELETE ON control_plane.backup_copies
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_sum_copies();
CREATE OR REPLACE TRIGGER holdfast_copies_emptied AFTER TRUNCATE ON control_plane.backup_copies
    FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_sum_copies();
CREATE OR REPLACE TRIGGER holdfast_recount_copies AFTER UPDATE OF size, project_id, type ON control_plane.backups
    FOR EACH ROW WHEN (OLD.size IS DISTINCT FROM NEW.size OR OLD.project_id <> NEW.project_id OR OLD.type <> NEW.type)
    EXECUTE FUNCTION control_plane.holdfast_recount_copies();
