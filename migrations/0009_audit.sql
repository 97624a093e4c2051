-- The audit trail: entries are linked by keyed digests, and read by many filters.

-- Empty until the entry is linked. An entry that is linked never changes.
ALTER TABLE control_plane.backup_history
    -- Its place in the chain, from 1, without gaps.
    ADD COLUMN IF NOT EXISTS sequence bigint,
    -- The digest of the entry before.
    ADD COLUMN IF NOT EXISTS previous_digest bytea,
    -- HMAC-SHA-256 over the place, the digest before, and everything that the entry says: src/history/audit_chain.rs.
    ADD COLUMN IF NOT EXISTS digest bytea,
    ADD COLUMN IF NOT EXISTS linked_at timestamptz;
CREATE UNIQUE INDEX IF NOT EXISTS idx_backup_history_sequence ON control_plane.backup_history (sequence) WHERE sequence IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_backup_history_unlinked ON control_plane.backup_history (id) WHERE sequence IS NULL;

-- Where the chain ends: one row.
CREATE TABLE IF NOT EXISTS control_plane.audit_head (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    chain_id uuid NOT NULL DEFAULT gen_random_uuid(),
    sequence bigint NOT NULL DEFAULT 0,
    digest bytea,
    -- Which key links: the beginning of a digest that the key makes, not of the key.
    key_id bytea,
    linked_at timestamptz
);
INSERT INTO control_plane.audit_head DEFAULT VALUES ON CONFLICT DO NOTHING;

-- The trail is read newest first, by time and id, with a filter before.
CREATE INDEX IF NOT EXISTS idx_backup_history_at ON control_plane.backup_history (at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_backup_history_project_at ON control_plane.backup_history (project_id, at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_backup_history_organization_at
    ON control_plane.backup_history (organization_id, at DESC, id DESC) WHERE organization_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_backup_history_actor_at ON control_plane.backup_history (actor, at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_backup_history_event_at ON control_plane.backup_history (event, at DESC, id DESC);
CREATE INDEX IF NOT EXISTS idx_backup_history_outcome_at ON control_plane.backup_history (outcome, at DESC, id DESC);

-- How many jobs of a project wait or run is counted whenever one is asked for.
CREATE INDEX IF NOT EXISTS idx_jobs_open ON control_plane.jobs (project_id) WHERE status IN ('pending', 'in_progress');
