SET LOCAL lock_timeout = '5s';

-- A job's words as they were said, for operators: `message` is what the project's own people read, export and are shown by their platform, and
-- says nothing of where databases and storages are. Null where the two are the same.
ALTER TABLE control_plane.project_logs ADD COLUMN IF NOT EXISTS full_message text;

-- Nor do two trials of somebody's dump begin at the same instant.
DROP INDEX IF EXISTS control_plane.idx_jobs_one_per_project;
CREATE UNIQUE INDEX idx_jobs_one_per_project ON control_plane.jobs (project_id, (type = 'repair_copies'))
    WHERE status = 'in_progress' AND project_id IS NOT NULL
    AND type IN ('export_backup', 'export_logs', 'export_storage', 'restore_backup', 'undo_restore', 'verify_backup', 'drop_replaced',
                 'repair_copies', 'delete_backup', 'import_backup', 'try_import');
