-- Storages: what adapters must remember, how many copies a backup needs, and the jobs that make and delete copies.

-- Facts by storage and key: upload ids before their first part, a chat's new id, messages whose fate is unclear.
CREATE TABLE IF NOT EXISTS control_plane.storage_ledger (
    storage text NOT NULL,
    key text NOT NULL,
    value jsonb NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (storage, key)
);

-- Good copies without which the backup does not count as safe. NULL: not asked for.
ALTER TABLE control_plane.backups ADD COLUMN IF NOT EXISTS required_copies integer;

-- How many good copies a stored backup lacks. A backup is complete, and counts as good for retention, when it is completed and this is 0.
CREATE OR REPLACE FUNCTION control_plane.holdfast_copies_missing(backup uuid, status text, required integer) RETURNS integer
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = '' AS $$
    SELECT CASE WHEN status IN ('completed', 'damaged') AND required > 0 THEN greatest(0, required - (
        SELECT count(*)::integer FROM control_plane.backup_copies c WHERE c.backup_id = backup AND c.status = 'good')) ELSE 0 END
$$;

-- Which copies wait to be made: looked for by every worker.
CREATE INDEX IF NOT EXISTS idx_backup_copies_wanting ON control_plane.backup_copies (backup_id) WHERE status <> 'good';

-- Two lanes per project: copies are made from copies beside whatever touches the tenant.
DROP INDEX IF EXISTS control_plane.idx_jobs_one_per_project;
CREATE UNIQUE INDEX idx_jobs_one_per_project ON control_plane.jobs (project_id, (type = 'repair_copies'))
    WHERE status = 'in_progress' AND project_id IS NOT NULL
    AND type IN ('export_backup', 'restore_backup', 'undo_restore', 'verify_backup', 'drop_replaced', 'repair_copies', 'delete_backup');

-- Deletions that have failed are taken up again: looked for by every worker.
CREATE INDEX IF NOT EXISTS idx_backups_deleted ON control_plane.backups (created_at) WHERE status = 'deleted';

-- What was tried about one backup: asked for every backup with a copy that is missing, and every one that is being deleted.
CREATE INDEX IF NOT EXISTS idx_jobs_about_backup ON control_plane.jobs ((payload -> 'request' ->> 'backup_id'), type, created_at DESC)
    WHERE type IN ('repair_copies', 'delete_backup');

-- What another program calls a backup that it has recorded. Not unique: a platform's own rows may repeat an id.
CREATE INDEX IF NOT EXISTS idx_backups_external_id ON control_plane.backups (external_id) WHERE external_id IS NOT NULL;
