-- Rows of a platform that has run for long. The same every time.
INSERT INTO control_plane.organizations (id, name) SELECT 'o' || n, 'o' || n FROM generate_series(0, 9) AS n;

INSERT INTO control_plane.projects (id, name, slug, organization_id)
SELECT 'p' || n, 'p' || n, 'p' || n, 'o' || n % 10 FROM generate_series(1, {projects}) AS n;

INSERT INTO control_plane.backups (id, project_id, type, format, status, file_name, file_id, size, created_at, expires_at, job_id, required_copies)
SELECT gen_random_uuid(), 'p' || 1 + n % {projects}, (ARRAY['database', 'database', 'logs', 'storage'])[1 + n % 7 % 4], 'sql',
       CASE WHEN n % 97 = 0 THEN (ARRAY['failed', 'cancelled', 'expired', 'deleted', 'damaged'])[1 + n / 97 % 5] ELSE 'completed' END,
       'backup-' || n || '.sql.gz', 'backups/p/backup-' || n || '.sql.gz', n, '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 minute',
       '2026-01-31T00:00:00Z'::timestamptz + n * interval '1 minute', gen_random_uuid(), 1
FROM generate_series(1, {rows}) AS n;

INSERT INTO control_plane.backup_copies (backup_id, storage, status) SELECT id, 'first', 'good' FROM control_plane.backups;

INSERT INTO control_plane.jobs (id, type, status, project_id, created_by, created_at, updated_at)
SELECT gen_random_uuid(), (ARRAY['export_backup', 'export_backup', 'verify_backup', 'restore_backup'])[1 + n % 7 % 4],
       CASE WHEN n % 97 = 0 THEN (ARRAY['failed', 'cancelled'])[1 + n / 97 % 2] ELSE 'completed' END,
       'p' || 1 + n % {projects}, 'someone', '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 minute', now()
FROM generate_series(1, {rows}) AS n;

INSERT INTO control_plane.backup_history (backup_id, project_id, at, event, actor, outcome)
SELECT id, project_id, created_at, 'requested', 'someone', 'ok' FROM control_plane.backups;

INSERT INTO control_plane.project_logs (project_id, level, message, metadata, created_at)
SELECT project_id, 'info', 'a line', jsonb_build_object('source', 'holdfast', 'job_id', id), created_at FROM control_plane.jobs;
