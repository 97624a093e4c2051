-- Lists by status, lists over several projects, and sums over a project, however many rows there are.

-- Newest first among those of one status: the rare ones too (`tests/query_plans.rs`). `backups` has one already.
CREATE INDEX IF NOT EXISTS idx_jobs_status_created ON control_plane.jobs (status, created_at DESC, id DESC);

-- The newest of each of many projects, with what lists are narrowed by and metrics tell: rows are read only of those that are shown.
CREATE INDEX IF NOT EXISTS idx_backups_project_newest ON control_plane.backups (project_id, created_at DESC, id DESC)
    INCLUDE (type, status, is_partial, started_at, expires_at);

-- All that the sums ask for, so that they need not read the rows.
CREATE INDEX IF NOT EXISTS idx_backups_sums ON control_plane.backups (project_id, type, status) INCLUDE (size, created_at, expires_at);
