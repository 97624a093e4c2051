-- Where a project's files are, for backups of type `storage`: {"directory": "/srv/acme"}, or {"storage": "s3-main",
-- "prefix": "uploads/acme"}, where the storage lends its bucket and keys. Set by operators only. NULL: the project has no files.

ALTER TABLE control_plane.projects ADD COLUMN IF NOT EXISTS files jsonb;
