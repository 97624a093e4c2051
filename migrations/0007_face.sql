-- What the API's calls about backups need: answers that were given under an idempotency key, sums that need no look at every row, lists by
-- status, and the job that takes an artifact back into the history.

-- Calls that carried an Idempotency-Key and make no job (jobs have a key of their own). A row lives for a day.
CREATE TABLE IF NOT EXISTS control_plane.idempotency_keys (
    -- Who called: a keyed digest of the subject and its rights.
    caller bytea NOT NULL,
    key text NOT NULL,
    -- What was asked: a keyed digest of method, path and body, since bodies hold passwords.
    request bytea NOT NULL,
    -- Who may write the answer: another attempt after a crash has another one.
    attempt uuid NOT NULL,
    started_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- NULL while the call is being answered.
    status integer,
    location text,
    -- NULL beside a status: the answer held a secret, or was too large, and is not kept.
    body text,
    PRIMARY KEY (caller, key)
);
CREATE INDEX IF NOT EXISTS idx_idempotency_keys_expires_at ON control_plane.idempotency_keys (expires_at);

-- Sums over backups: one row for each project, type and status, kept by the triggers below in the transaction of every change. Counting a
-- million rows takes a third of a second, and every look at the overview asks for it.
CREATE TABLE IF NOT EXISTS control_plane.backup_sums (
    project_id text NOT NULL,
    type text NOT NULL,
    status text NOT NULL,
    backups bigint NOT NULL,
    -- As stored.
    bytes numeric NOT NULL,
    PRIMARY KEY (project_id, type, status)
);

-- A platform's own role may write rows of `backups`, and need not know of the sums: the function runs with its owner's rights. Rows are
-- changed in the order of their keys, so that two statements cannot wait for each other.
CREATE OR REPLACE FUNCTION control_plane.holdfast_sum_backups() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM control_plane.backup_sums;
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO control_plane.backup_sums AS s (project_id, type, status, backups, bytes)
        SELECT project_id, type, status, count(*), sum(coalesce(size, 0)) FROM added GROUP BY project_id, type, status
        ORDER BY project_id, type, status
        ON CONFLICT (project_id, type, status) DO UPDATE SET backups = s.backups + excluded.backups, bytes = s.bytes + excluded.bytes;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO control_plane.backup_sums AS s (project_id, type, status, backups, bytes)
        SELECT project_id, type, status, -count(*), -sum(coalesce(size, 0)) FROM removed GROUP BY project_id, type, status
        ORDER BY project_id, type, status
        ON CONFLICT (project_id, type, status) DO UPDATE SET backups = s.backups + excluded.backups, bytes = s.bytes + excluded.bytes;
    ELSE
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

-- The first of them keeps writers out until the sums are there.
CREATE OR REPLACE TRIGGER holdfast_sum_added AFTER INSERT ON control_plane.backups
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_sum_backups();
CREATE OR REPLACE TRIGGER holdfast_sum_changed AFTER UPDATE ON control_plane.backups
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_sum_backups();
CREATE OR REPLACE TRIGGER holdfast_sum_removed AFTER DELETE ON control_plane.backups
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_sum_backups();
CREATE OR REPLACE TRIGGER holdfast_sum_emptied AFTER TRUNCATE ON control_plane.backups
    FOR EACH STATEMENT EXECUTE FUNCTION control_plane.holdfast_sum_backups();
DELETE FROM control_plane.backup_sums;
INSERT INTO control_plane.backup_sums (project_id, type, status, backups, bytes)
SELECT project_id, type, status, count(*), sum(coalesce(size, 0)) FROM control_plane.backups GROUP BY project_id, type, status;

-- What the sums do not tell: the oldest and newest good backup, and those of a time. Read from the index alone.
CREATE INDEX IF NOT EXISTS idx_backups_completed_created ON control_plane.backups (created_at) WHERE status = 'completed';
CREATE INDEX IF NOT EXISTS idx_backups_completed_project ON control_plane.backups (project_id, created_at) WHERE status = 'completed';
CREATE INDEX IF NOT EXISTS idx_backups_completed_expires ON control_plane.backups (expires_at) WHERE status = 'completed';
CREATE INDEX IF NOT EXISTS idx_backups_completed_project_expires ON control_plane.backups (project_id, expires_at) WHERE status = 'completed';
-- Lists by status or type, in their order.
CREATE INDEX IF NOT EXISTS idx_backups_status_created ON control_plane.backups (status, created_at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_backups_type_created ON control_plane.backups (type, created_at DESC, id DESC);

-- An import meets no deletion of the same backup.
DROP INDEX IF EXISTS control_plane.idx_jobs_one_per_project;
CREATE UNIQUE INDEX idx_jobs_one_per_project ON control_plane.jobs (project_id, (type = 'repair_copies'))
    WHERE status = 'in_progress' AND project_id IS NOT NULL
    AND type IN ('export_backup', 'export_logs', 'export_storage', 'restore_backup', 'undo_restore', 'verify_backup', 'drop_replaced',
                 'repair_copies', 'delete_backup', 'import_backup');
